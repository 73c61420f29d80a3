"""The rules of the house. All but the last read the source and never import it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import convflow

PACKAGE = "convflow"
ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 400
MAX_FUNCTION = 60
MAX_PARAMETERS = 10
KERNELS = "_kernels.py"  # kernels of Triton and numba are long, and take their strides one by one

# Bottom to top. A folder imports from the rows below it and from itself, never from its own row.
LAYERS = [
    {"types", "units"},
    {"settings"},
    {"hub", "shipped"},
    {
        "ops",
        "conditions",
        "processes",
        "distributed",
        "storage",
        "arrays",
        "seeds",
        "class_names",
        "bar",
    },
    {"autoencoders", "text_encoders"},
    {"text_pipelines"},
    {"nn", "samplers", "data", "codecs", "texts", "parallel"},
    {"models", "videos"},
    {"bundle", "evaluation", "masks", "generate"},
    {"objectives"},  # which may look through the networks of `evaluation`
    {"training", "pipeline"},
    {"recipes"},
    {"bench", "demo", "integrations", "plans"},
    {"cli"},
    {"__main__"},
]
DEVICE_FILES = {"ops/deform/gpu.py", "ops/deform/op.py", "ops/depthwise/op.py", "distributed.py"}
ENVIRONMENT_FILES = {"distributed.py", "cli/main.py"}  # the latter before torch loads
SPEAKING = {"cli/output.py", "cli/main.py"}
FORBIDDEN_IMPORTS = {"torchvision"}
SHARED_NAMES = {
    "NOTE": "the text that a command prints beside its own table",
    "SIDE": "the side in pixels of what a feature network takes; each of the two has its own",
    "T": "a type variable",
    "TILE": "the constant of a kernel, and the same number for the code that launches it",
    "CHUNKS": "the constant of a kernel, and the same number for the code that launches it",
}
"""Classes and constants that two modules may define, and why one name serves both."""

FILES = sorted((ROOT / PACKAGE).rglob("*.py"))
MODULES = [path for path in FILES if path.name != "__init__.py"]

Fault = tuple[int, str]
"""A line, and what is wrong there."""


def name(path: Path) -> str:
    return path.relative_to(ROOT / PACKAGE).as_posix()


def top(path: Path) -> str:
    return path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")


def row(folder: str) -> int | None:
    return next((i for i, folders in enumerate(LAYERS) if folder in folders), None)


def imports(tree: ast.AST, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Every imported name in full, such as ["convflow", "data", "grid", "tile"]."""
    here = list(path.relative_to(ROOT).with_suffix("").parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            anchor = here[: -node.level] if node.level else []
            anchor += node.module.split(".") if node.module else []
            yield from ((node.lineno, [*anchor, alias.name]) for alias in node.names)


def wrong_imports(tree: ast.AST, path: Path) -> Iterator[Fault]:
    for line, target in imports(tree, path):
        if target[0] in FORBIDDEN_IMPORTS:
            yield line, f"imports {target[0]}"
        if target[-1] == "*":
            yield line, "imports a star"
        if target[0] != PACKAGE or len(target) < 2 or target[1] == top(path):
            continue
        mine, theirs = row(top(path)), row(target[1])
        if mine is not None and theirs is not None and theirs >= mine:
            yield line, f"imports {target[1]}, which is not below {top(path)}"


def device_names(tree: ast.AST, path: Path) -> Iterator[Fault]:
    for node in ast.walk(tree):
        if name(path) in DEVICE_FILES:
            return
        if isinstance(node, ast.Constant) and re.fullmatch(r"(cuda|mps)(:\d+)?", str(node.value)):
            yield node.lineno, f"names the device {node.value!r}"
        moves = isinstance(node, ast.Attribute) and node.attr == "cuda"
        if moves and ast.unparse(node.value) != "torch":  # torch.cuda.is_available() moves nothing
            yield node.lineno, "uses .cuda"


def environment_reads(tree: ast.AST, path: Path) -> Iterator[Fault]:
    if name(path) in ENVIRONMENT_FILES:
        return
    words = {"environ", "environb", "getenv", "putenv"}
    for line, target in imports(tree, path):
        if target[0] == "os" and target[-1] in words:
            yield line, f"imports os.{target[-1]}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in words:
            yield node.lineno, f"uses os.{node.attr}"


def loose_talk(tree: ast.AST, path: Path) -> Iterator[Fault]:
    for node in ast.walk(tree):
        called = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
        if called == "print" and name(path) not in SPEAKING:
            yield node.lineno, "prints"
        if called in {"eval", "exec"}:
            yield node.lineno, "evaluates text"
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield node.lineno, "catches everything"


def unnamed_encodings(tree: ast.AST, path: Path) -> Iterator[Fault]:
    """Text files without an encoding: that of the system would differ from one to the next."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        method, given = isinstance(node.func, ast.Attribute), len(node.args)
        called = getattr(node.func, "attr" if method else "id", "")
        modes = [a.value for a in node.args[:2] if isinstance(a, ast.Constant)]
        text = any(re.fullmatch(r"[rwax]\+?t?", str(mode)) for mode in modes)
        archive = any(k.arg == "force_zip64" for k in node.keywords)
        if method and (called, given) in {("read_text", 0), ("write_text", 1)}:
            yield node.lineno, f"{called} names no encoding"
        elif called == "open" and (text or not (method or given > 1)) and not archive:
            yield node.lineno, "opens text without an encoding"


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def classes() -> dict[str, ast.ClassDef]:
    nodes = (node for path in FILES for node in parse(path).body)
    return {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}


def describes(cls: ast.ClassDef | None, method: str) -> bool:
    """Return whether a class, or one of the package that it is derived from, describes a method."""
    if cls is None:
        return False
    own = (node for node in cls.body if isinstance(node, ast.FunctionDef) and node.name == method)
    bases = (classes().get(ast.unparse(base).partition("[")[0]) for base in cls.bases)
    return any(map(ast.get_docstring, own)) or any(
        describes(base, method) for base in bases if base is not cls
    )


def missing_docstrings(tree: ast.Module, path: Path) -> Iterator[Fault]:
    """Of the module, its public names, and the public methods of its public classes.

    A method that does what the class above promises needs none of its own.
    """
    if not ast.get_docstring(tree):
        yield 1, "has no docstring"
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    places = [tree, *(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name[0] != "_")]
    for place in places:
        for node in place.body:
            if not isinstance(node, definitions) or node.name.startswith("_"):
                continue
            inherits = isinstance(place, ast.ClassDef) and describes(place, node.name)
            if not ast.get_docstring(node) and not inherits:
                yield node.lineno, f"{node.name} has no docstring"


def public_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Classes, constants and aliases of a module, which begin with a capital; no functions."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for part in (part for target in targets for part in ast.walk(target)):
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                    yield node.lineno, part.id


def shared_names(trees: dict[str, ast.Module]) -> dict[str, list[str]]:
    """Where each public class or constant is defined that several modules define."""
    places: dict[str, list[str]] = {}
    for file, tree in trees.items():
        for line, word in public_names(tree):
            if word[0].isupper() and not any(
                p.startswith(f"{file}:") for p in places.get(word, ())
            ):
                places.setdefault(word, []).append(f"{file}:{line}")
    return {word: found for word, found in places.items() if len(found) > 1}


def large_functions(tree: ast.AST, path: Path) -> Iterator[Fault]:
    """Functions that are too long, docstring included, or take too much; not those of kernels."""
    if path.name.endswith(KERNELS):
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        lines = (node.end_lineno or 0) - node.lineno + 1
        given = node.args
        several = [*given.posonlyargs, *given.args, *given.kwonlyargs]
        several += [each for each in (given.vararg, given.kwarg) if each]
        if lines > MAX_FUNCTION:
            yield node.lineno, f"{node.name} has {lines} lines, more than {MAX_FUNCTION}"
        if len(several) > MAX_PARAMETERS:
            yield node.lineno, f"{node.name} takes {len(several)}, more than {MAX_PARAMETERS}"


RULES = [
    wrong_imports,
    device_names,
    environment_reads,
    loose_talk,
    missing_docstrings,
    large_functions,
    unnamed_encodings,
]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_rules(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES, f"{name(path)} is longer than {MAX_LINES} lines"
    if path in MODULES or path.parent != ROOT / PACKAGE:
        assert row(top(path)) is not None, f"{top(path)} is not in LAYERS"
    tree = parse(path)
    faults = [f"{name(path)}:{line} {what}" for rule in RULES for line, what in rule(tree, path)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("rule", "file", "text"),
    [
        (wrong_imports, "data/grid.py", "from convflow.models.zoo import create_model"),
        (wrong_imports, "data/grid.py", "from convflow import models"),
        (wrong_imports, "data/grid.py", "from convflow.samplers import ode"),
        (wrong_imports, "data/grid.py", "from ..training import config"),
        (wrong_imports, "data/grid.py", "def f():\n    import convflow.nn.norm"),
        (wrong_imports, "pipeline.py", "from convflow.training import config"),
        (wrong_imports, "evaluation/card.py", "from convflow.training import keys"),
        (wrong_imports, "pipeline.py", "from convflow.bench import harness"),
        (wrong_imports, "bench/ops.py", "from convflow.cli import main"),
        (wrong_imports, "ops/__init__.py", "from convflow.nn import norm"),
        (wrong_imports, "nn/norm.py", "from math import *"),
        (wrong_imports, "nn/norm.py", "from torchvision.ops import DeformConv2d"),
        (device_names, "nn/norm.py", "x = torch.zeros(1, device='cuda:0')"),
        (device_names, "nn/norm.py", "model.cuda()"),
        (environment_reads, "nn/norm.py", "os.environ['RANK']"),
        (environment_reads, "nn/norm.py", "from os import getenv"),
        (loose_talk, "nn/norm.py", "print(1)"),
        (loose_talk, "cli/main.py", "eval('1')"),
        (loose_talk, "nn/norm.py", "try:\n    pass\nexcept:\n    pass"),
        (unnamed_encodings, "nn/norm.py", "path.read_text()"),
        (unnamed_encodings, "nn/norm.py", "path.write_text('x', newline='')"),
        (unnamed_encodings, "nn/norm.py", "with open(path) as file: ..."),
        (unnamed_encodings, "nn/norm.py", "path.open('a', newline='')"),
        (missing_docstrings, "nn/norm.py", "x = 1"),
        (missing_docstrings, "nn/norm.py", "'''Doc.'''\ndef f(): ..."),
        (
            missing_docstrings,
            "nn/norm.py",
            "'''Doc.'''\nclass A:\n  '''Doc.'''\n  def f(self): ...",
        ),
        (
            missing_docstrings,
            "nn/norm.py",
            "'''Doc.'''\nclass A(Solver):\n  '''Doc.'''\n  def other(self): ...",
        ),
        (large_functions, "nn/norm.py", "def f():" + "\n    x = 1" * 60),
        (large_functions, "nn/norm.py", "class A:\n  async def f(self):" + "\n    x = 1" * 60),
        (large_functions, "nn/norm.py", "def f(a, b, c, d, e, /, f, g, *h, i, j, **k): ..."),
    ],
)
def test_each_rule_finds_its_fault(rule, file, text):
    assert list(rule(ast.parse(text), ROOT / PACKAGE / file))


@pytest.mark.parametrize(
    "text",
    [
        "from convflow.data.check import check",
        "from convflow.types import Size",
        "from convflow import __version__",
        "import os.path",
        "class A(Solver):\n  '''Doc.'''\n  def solve(self): ...",
    ],
)
def test_rules_leave_good_code_alone(text):
    path, tree = ROOT / PACKAGE / "data/grid.py", ast.parse(f"'''Doc.'''\n{text}")
    assert not [fault for rule in RULES for fault in rule(tree, path)]


def test_a_class_or_constant_has_a_name_of_its_own():
    shared = shared_names({name(path): parse(path) for path in FILES})
    faults = [f"{word}: {', '.join(shared[word])}" for word in shared if word not in SHARED_NAMES]
    assert not faults, "\n".join(faults)
    assert shared.keys() == SHARED_NAMES.keys(), "a name in SHARED_NAMES has one meaning now"


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("class Row: ...", "class Row: ...", {"Row"}),
        ("LIMIT = 1", "LIMIT: int = 2", {"LIMIT"}),
        ("RAW, EMA = 1, 2", "class EMA: ...", {"EMA"}),
        ("class Row: ...", "from a import Row\nlog = 1\n_Row = Row", set()),
        ("log = 1\ndef main(): Row = 1", "log = 1\ndef main(): Row = 1", set()),
        ("SIZE = 1\nSIZE = 2\nSIZE |= 3", "SIZES = 1\nSIZES[0] = SIZE", set()),
    ],
)
def test_a_name_that_two_modules_define_is_found(one, other, shared):
    assert shared_names({"a.py": ast.parse(one), "b.py": ast.parse(other)}).keys() == shared


def test_every_module_has_a_mirrored_test():
    """Recipes are settings, not code: tests/recipes/test_recipes.py tests each of them alike."""

    def mirror(path):
        relative = path.relative_to(ROOT / PACKAGE)
        stem = "recipes" if top(path) == "recipes" else relative.stem.strip("_")
        return ROOT / "tests" / relative.parent / f"test_{stem}.py"

    assert [name(path) for path in MODULES if not mirror(path).exists()] == []


def test_importing_the_package_loads_nothing_heavy():
    heavy = ["torch", "triton", "numba", "diffusers", "numpy", "PIL", "huggingface_hub"]
    code = (
        f"import sys, {PACKAGE}, {PACKAGE}.types; print([m for m in {heavy} if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_every_public_name_exists():
    assert "create_model" in convflow.__all__
    assert all(hasattr(convflow, word) for word in convflow.__all__)
