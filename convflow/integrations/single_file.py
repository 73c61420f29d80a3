"""One readable file of Python from definitions of this package and all that they need.

Definitions are taken from the source as text, so that a network exists once. What runs through
kernels is replaced by `convflow.integrations.plain`; settings of a network become arguments of its
`__init__`. Of other packages the file imports what the definitions do; shapes are annotations.
"""

from __future__ import annotations

import ast
import itertools
import re
import sys
from collections.abc import Iterator, Mapping, Set
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from convflow.integrations.branches import without_branches

PACKAGE = "convflow."
PLAIN = "convflow.integrations.plain"
OUTSIDE = {"Linear": "from torch.nn import Linear"}
"""Classes of this package whose twin is torch's."""
LEFT_OUT = {
    "Config", "config", "backend", "create_condition", "check_options", "inner", "joints",
    "_merged", "from_backbone", "begin_from", "blank_inputs", "takes_text", "take_text",
    "place_label", "conditions", "blank_conditions", "filtered",
}  # fmt: skip
"""Members of classes that only training and other modules of this package use."""
STATEMENTS_LEFT_OUT = re.compile(
    r"^ +self\.(take_text\(.*\)|cross: .* = None|temporal = None|(temporal, self\.)?video = .*)\n",
    re.M,
)
"""Statements that are about texts and videos alone: a file is of pictures that are told labels."""
FACTS = {
    "self.cross is None": True,
    "self.temporal is None": True,
    "temporal == 'factorised'": False,
    "c.temporal == 'factorised'": False,
    "self.temporal == 'factorised'": False,
    "c.temporal == 'full'": False,
    "self.temporal == 'full'": False,
    "scales.video": False,
    "isinstance(condition, WithText)": False,
    "isinstance(y, Added)": False,
}
"""What is so for such networks; branches for all else are left out."""
OF_PYRAMIDS = {"create_condition"}
"""Those of them that a pyramid uses, of the network inside."""
WORDS = {
    "Width": "int", "Classes": "int", "Depth": "int", "Depths": "tuple[int, ...]",
    "Positive": "float", "TimeScale": "float",
}  # fmt: skip
"""What the types of settings are without their ranges."""
ABOUT_VIDEOS = re.compile(r'(temporal: "none" for pictures)[.;].*(\n {8}.*)*')
"""What a setting says of videos behind what it says of pictures."""
NOTES = re.compile(r"  # (type: ignore|noqa|fmt)\S*( \S+)?$", re.M)

LONGEST_LINE = 100

Place = tuple[str, str]
"""A module and a name in it."""


class ModuleText(NamedTuple):
    """The source of a module.

    Attributes:
        lines: of the file.
        nodes: what defines each name, and the number of its last line.
        outside: the import of each name of another package.
        inside: module and name there of each name of this package.
    """

    lines: list[str]
    nodes: dict[str, tuple[ast.stmt, int]]
    outside: dict[str, str]
    inside: dict[str, Place]


@cache
def read_source(module: str) -> ModuleText:
    """Return the source of a module, which is not imported."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    text = Path(spec.origin).read_text(encoding="utf-8")
    tree = ast.parse(text)
    found = ModuleText(text.splitlines(), {}, {}, {})
    for node, after in _statements(tree.body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            _add_imports(found, node)
            continue
        last = node.end_lineno or 0
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            last = after.end_lineno or 0  # what a constant means
        for name in _defined(node):
            found.nodes[name] = node, last
    return found


def _statements(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, ast.stmt | None]]:
    """Yield statements with the one that follows, also those under `if TYPE_CHECKING`."""
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.If):
            yield from _statements(node.body)
        yield node, after


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
    return [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]


def _add_imports(found: ModuleText, node: ast.Import | ast.ImportFrom) -> None:
    module = getattr(node, "module", None)
    for alias in node.names:
        name = alias.asname or alias.name
        renamed = f" as {alias.asname}" if alias.asname else ""
        if module == "jaxtyping":  # a shape is a note for the reader
            found.outside[name] = f"from typing import Annotated as {name}"
        elif module and module.startswith(PACKAGE):
            found.inside[name] = module, alias.name
        elif module:
            found.outside[name] = f"from {module} import {alias.name}{renamed}"
        else:
            found.outside[name.partition(".")[0]] = f"import {alias.name}{renamed}"


class SingleFile:
    """A file of some definitions and all that they need.

    Args:
        roots: the definitions that are wanted.
        replaced: definitions in the place of others, by the names of those.
        left_out: members of classes that the file does without.

    Raises:
        ValueError: two definitions of one name, or a module that is used as a whole.
    """

    def __init__(
        self,
        roots: list[Place],
        replaced: Mapping[str, Place] | None = None,
        left_out: Set[str] = LEFT_OUT,
    ) -> None:
        self.replaced, self.left_out = dict(replaced or {}), left_out
        self.texts: dict[Place, str] = {}
        self.owners: dict[str, Place] = {}
        self.imports = {"from __future__ import annotations"}
        self.needs: dict[str, set[str]] = {}
        for root in roots:
            self._add(*root)

    def text(self, about: str) -> str:
        """Return the file, which begins with a docstring."""
        parts = [f'"""{about}\n"""', self._import_lines()]
        for module in self._order():
            names = sorted(
                (read_source(m).nodes[n][0].lineno, n) for m, n in self.texts if m == module
            )
            parts.append(f"# ---- {module}")
            parts += dict.fromkeys(self.texts[module, name] for _, name in names)
        return _laid_out(parts)

    def _add(self, module: str, name: str) -> None:
        """Take a definition and what it needs."""
        if name in OUTSIDE and module.startswith(PACKAGE):
            self.imports.add(OUTSIDE[name])
            return
        place = _find(module, name)
        if place in self.texts:
            return
        if self.owners.setdefault(name, place) != place:
            raise ValueError(f"two definitions of {name}: {self.owners[name]} and {place}")
        text, scopes = self._written(place)
        text = without_branches(text, FACTS)
        self.texts[place] = text
        self.needs.setdefault(place[0], set())
        for used in _names(text):
            self._use(place, used, scopes)

    def _use(self, place: Place, used: str, scopes: list[str]) -> None:
        """Take what a name in a definition stands for, where it is no local or built-in one."""
        for scope in scopes:
            source = read_source(scope)
            if used in source.outside:
                self.imports.add(source.outside[used])
                return
            target = (scope, used) if used in source.nodes else source.inside.get(used)
            if target is not None and target[1] != place[1]:
                self._add(*target)
                found = self.owners.get(target[1])
                if found and found[0] != place[0]:
                    self.needs[place[0]].add(found[0])
            if target is not None:
                return

    def _written(self, place: Place) -> tuple[str, list[str]]:
        """Return the text of a definition as it goes into the file, and where its names live."""
        module, name = place
        plain = read_source(PLAIN).nodes
        if name in self.replaced:
            other, called = self.replaced[name]
            return _text(other, called).replace(called, name), [other]
        if name in plain and isinstance(plain[name][0], ast.FunctionDef):
            return _text(PLAIN, name), [PLAIN]
        text, twin = _text(module, name), f"Plain{name}"
        if isinstance(read_source(module).nodes[name][0], ast.ClassDef):
            text = _without_settings(text, self.left_out)
            if twin in plain:
                return _merged(text, _text(PLAIN, twin)), [PLAIN, module]
        elif twin in plain:
            return _text(PLAIN, twin).replace(twin, name), [PLAIN]
        return text, [module]

    def _order(self) -> list[str]:
        """Return the modules, each after those that it needs."""
        order: list[str] = []
        seen: set[str] = set()

        def visit(module: str) -> None:
            if module not in seen:
                seen.add(module)
                for other in sorted(self.needs[module]):
                    visit(other)
                order.append(module)

        for module in self.needs:
            visit(module)
        return order

    def _import_lines(self) -> str:
        """Return the imports: of the future, of the standard library, of other packages."""
        grouped: dict[str, set[str]] = {}
        for line in self.imports:
            module, _, name = line.removeprefix("from ").partition(" import ")
            grouped.setdefault(module if name else line, set()).add(name)
        lines = {
            module: _import_line(module, sorted(names)) if any(names) else module
            for module, names in sorted(grouped.items(), key=lambda item: (any(item[1]), item[0]))
        }
        future = lines.pop("__future__")
        standard, others = list[str](), list[str]()
        for module, line in lines.items():
            top = module.removeprefix("import ").partition(".")[0].partition(" ")[0]
            (standard if top in sys.stdlib_module_names else others).append(line)
        return "\n".join([future, "", *standard, "", *others])


def _import_line(module: str, names: list[str]) -> str:
    """Return an import of names, over several lines where one is too long."""
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= LONGEST_LINE:
        return line
    return "\n".join([f"from {module} import (", *(f"    {name}," for name in names), ")"])


def _find(module: str, name: str) -> Place:
    """Return where a name is defined that a module may only hand on."""
    source = read_source(module)
    if name in source.nodes:
        return module, name
    if name in source.inside:
        return _find(*source.inside[name])
    raise ValueError(f"{module} does not define {name}")


def _text(module: str, name: str) -> str:
    """Return the lines of a definition."""
    source = read_source(module)
    node, last = source.nodes[name]
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    return NOTES.sub("", "\n".join(source.lines[first - 1 : last]))


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)))


def _members(text: str) -> dict[str, tuple[int, int]]:
    """Return the first and last line, from 0, of each member of a class, its docstring as ""."""
    (cls,) = ast.parse(text).body
    assert isinstance(cls, ast.ClassDef)
    found: dict[str, tuple[int, int]] = {}
    for node, after in _statements(cls.body):
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        last = node.end_lineno or 0
        if not isinstance(node, ast.Expr) and isinstance(after, ast.Expr):
            last = after.end_lineno or 0
        for name in _defined(node) or ([""] if node is cls.body[0] else []):
            found[name] = first - 1, last
    return found


def _merged(text: str, plain: str) -> str:
    """Return a class with the docstring and the methods of its plain twin."""
    lines, theirs = text.splitlines(), plain.splitlines()
    ours, twins = _members(text), _members(plain)
    for name, (first, last) in sorted(ours.items(), key=lambda item: -item[1][0]):
        if name in twins:
            lines[first:last] = theirs[slice(*twins[name])]
    return "\n".join(lines)


def _without_settings(text: str, left_out: Set[str]) -> str:
    """Return a class without what is left out, its `Config` as arguments of `__init__`."""
    text = STATEMENTS_LEFT_OUT.sub("", text + "\n").rstrip("\n")
    lines, members = text.splitlines(), _members(text)
    if "Config" in members:
        first, last = members["Config"]
        settings = "\n".join(lines[first:last])
        text = re.sub(
            r"    def __init__\(self, \*\*settings: Any\) -> None:\n"
            r" +super\(\).__init__\(\*\*settings\)\n",
            lambda _: _initialiser(settings),
            text,
        )
        lines, members = text.splitlines(), _members(text)
    for name in sorted(members.keys() & left_out, key=lambda name: -members[name][0]):
        first, last = members[name]
        del lines[first : last + (lines[last : last + 1] == [""])]
    return "\n".join(lines)


def _initialiser(settings: str) -> str:
    """Return the beginning of an `__init__` with the settings of a `Config` as arguments."""
    source = "\n".join(line[4:] for line in settings.splitlines())
    (cls,) = ast.parse(source).body
    assert isinstance(cls, ast.ClassDef)
    words = re.compile(rf"\b({'|'.join(WORDS)})\b")
    fields = [node for node in cls.body if isinstance(node, ast.AnnAssign) and node.value]
    arguments = [ast.get_source_segment(source, field) or "" for field in fields]
    arguments = [f"        {words.sub(lambda m: WORDS[m[0]], text)}," for text in arguments]
    docs = (ast.get_docstring(cls) or "").replace("Attributes:", "Args:")
    about = ABOUT_VIDEOS.sub(r"\1.", docs).splitlines()
    begin = ["    @register_to_config", "    def __init__(", "        self,", *arguments]
    about = ['"""' + about[0], *about[1:], '"""']
    said = [f"        {line}".rstrip() for line in about]
    return "\n".join([*begin, "    ) -> None:", *said, "        super().__init__()", ""])


def _laid_out(parts: list[str]) -> str:
    """Return parts of a file with two empty lines around functions and classes, else one."""
    text = parts[0]
    for before, after in itertools.pairwise(parts):
        large = any(re.match(r"(@|def |class )", part) for part in (before, after))
        text += ("\n\n\n" if large and not before.startswith("# ") else "\n\n") + after
    return re.sub(r"\n{4,}", "\n\n\n", text).rstrip() + "\n"
