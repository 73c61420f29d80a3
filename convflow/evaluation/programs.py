"""Programs of `torch.export`, read so that nothing a file holds can run as code.

Torch unpickles parts of a `.pt2`, loads the libraries in it, evaluates its expressions and compiles
its names as Python. So an archive is read here first, checked against a list of what a program
needs, and torch is given a new archive that holds what was checked and no more.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.pt2_archive import PT2ArchiveWriter

from convflow.storage import LARGEST_JSON, parse_json
from convflow.types import InputError

GRAPH = "models/model.json"
TABLES = {
    "data/weights/": "data/weights/model_weights_config.json",
    "data/constants/": "data/constants/model_constants_config.json",
}
TENSORS = re.compile(r"(data/weights/weight_|data/constants/tensor_)\d+")
IGNORED = re.compile(  # what pictures do not need: never given to torch
    r"archive_format|archive_version|byteorder|\.(format_)?version|\.storage_alignment"
    r"|\.data/(version|serialization_id)|data/sample_inputs/model\.pt|extra/.*",
    re.DOTALL,
)

OPERATORS = re.compile(
    r"torch\.ops\.(aten|prims|convflow)\.(?!(from_file|save|_print)\.)"
    r"(_?[A-Za-z]\w*|__[ilr]?(and|or|xor|shift)__)\.[A-Za-z]\w*"
    r"|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|pow|neg|pos|and_|or_|lshift|rshift"
    r"|eq|ne|le|ge|lt|gt)"
    r"|math\.[a-z]\w*|torch\._?sym_\w+",
    re.ASCII,
)
NAME = re.compile(r"([A-Za-z_]\w*)?", re.ASCII)
DOTTED = re.compile(r"[\w .@+-]*", re.ASCII)
DOTTED_KEYS = set(
    "parameter_name buffer_name tensor_constant_name fqn torch_version as_float".split()
)
STRUCTURES = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
FUNCTIONS = set(  # of sizes
    "Symbol Integer Float Rational Add Mul Pow Max Min Abs Eq Ne Lt Le Gt Ge "
    "StrictLessThan LessThan StrictGreaterThan GreaterThan Equality Unequality And Or Not "
    "FloorDiv ModularIndexing Where PythonMod Mod CleanDiv CeilToInt FloorToInt CeilDiv "
    "PowByNatural FloatPow FloatTrueDiv IntTrueDiv TruncToFloat TruncToInt RoundToInt ToFloat "
    "Identity".split()
)


def read_program(path: Path) -> ExportedProgram:
    """Return the program in a `.pt2` that `torch.export.save` wrote, without running its content.

    Its operators are torch's and convflow's; its weights and constants are plain tensors.

    Raises:
        InputError: a damaged file, or one that holds anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return torch.export.load(_checked(path, archive))
    except InputError:
        raise
    except Exception as error:  # of many kinds: a zip file, a graph, an operator unknown here
        reason = f"{type(error).__name__}: {error}".strip(": \n").splitlines()[0]
        raise InputError(
            f"expected a program saved by torch.export.save at {path}, got what cannot be opened "
            f"({reason}); export it again with this version of torch"
        ) from error


def _checked(path: Path, archive: zipfile.ZipFile) -> io.BytesIO:
    """Return a new archive of the graph and the tensors of an old one."""
    members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    if len(members) != len(archive.infolist()):
        raise _refusal(path, "two members of one name")
    for name, info in members.items():
        known = name in (GRAPH, *TABLES.values()) or TENSORS.fullmatch(name)
        if not known and not IGNORED.fullmatch(name):
            raise _refusal(path, f"the member {name!r}")
        if info.compress_type != zipfile.ZIP_STORED:
            raise _refusal(path, f"the compressed member {name!r}")
        if name.endswith(".json") and info.file_size > LARGEST_JSON:
            raise _refusal(path, f"{info.file_size:,} bytes of {name!r}")
    for name in (GRAPH, *TABLES.values()):
        if name not in members:
            raise _refusal(path, f"no {name!r}")
    graph = parse_json(archive.read(members[GRAPH]), f"{path}: {GRAPH}")
    graph["guards_code"] = []  # torch would compile them; the sizes themselves are checked anyhow
    _check(path, graph, GRAPH)
    new = io.BytesIO()
    with PT2ArchiveWriter(new) as writer:
        writer.write_string(GRAPH, json.dumps(graph))
        writer.write_bytes("data/sample_inputs/model.pt", b"")
        for folder, name in TABLES.items():
            table = parse_json(archive.read(members[name]), f"{path}: {name}")
            for tensor in _tensors(path, table, folder, members):
                writer.write_bytes(tensor, archive.read(members[tensor]))
            writer.write_string(name, json.dumps(table))
    new.seek(0)
    return new


def _tensors(
    path: Path, table: dict[str, Any], folder: str, members: dict[str, zipfile.ZipInfo]
) -> Iterator[str]:
    """Give the members that a table of weights or constants names, or refuse what is no tensor."""
    given = set()
    for name, entry in table["config"].items():
        member = f"{folder}{entry['path_name']}"
        if entry["use_pickle"] is not False or not TENSORS.fullmatch(member):
            raise _refusal(path, f"{name!r} as a pickle in {member!r}")
        empty = any(size.get("as_int") == 0 for size in entry["tensor_meta"]["sizes"])
        if member not in members or (members[member].file_size == 0 and not empty):
            raise _refusal(path, f"no bytes of {name!r} in {member!r}")
        if member not in given:
            given.add(member)
            yield member
    _check(path, table, "")


def _check(path: Path, tree: Any, key: str) -> None:
    """Refuse a text of the graph that torch would take for more than a name."""
    if isinstance(tree, list):
        for item in tree:
            _check(path, item, key)
    elif isinstance(tree, dict):
        if "metadata" in tree:  # traces of the exporter's source
            tree["metadata"] = {}
        for name, item in tree.items():
            dotted = key == "config" or name in ("", *DOTTED_KEYS)
            if name == "as_operator" or not (DOTTED if dotted else NAME).fullmatch(name):
                raise _refusal(path, f"{name!r} in its graph")
            _check(path, item, name)
    elif isinstance(tree, str) and not _is_harmless(key, tree):
        raise _refusal(path, f"{key} {tree[:80]!r} in its graph")


def _is_harmless(key: str, text: str) -> bool:
    """Return whether a text is what torch's own exporter writes at such a place."""
    if key == "target":
        return OPERATORS.fullmatch(text) is not None
    if key == "expr_str":
        return _is_size(ast.parse(text, mode="eval").body)
    if key in ("in_spec", "out_spec"):
        _, tree = json.loads(text)
        return _is_structure(tree)
    if key == "as_string":  # an argument of an operator of torch
        return True
    return (DOTTED if key in DOTTED_KEYS else NAME).fullmatch(text) is not None


def _is_structure(tree: dict[str, Any]) -> bool:
    """Return whether arguments or results are tuples, lists and dicts with plain keys."""
    keys = json.loads(tree["context"] or "null") or []
    return (
        tree["type"] in STRUCTURES
        and isinstance(keys, list)
        and all(isinstance(key, str) and DOTTED.fullmatch(key) for key in keys)
        and all(_is_structure(child) for child in tree["children_spec"])
    )


def _is_size(node: ast.expr) -> bool:
    """Return whether an expression only computes with sizes."""
    if isinstance(node, ast.Call):
        parts = [*node.args, *(word.value for word in node.keywords)]
        return (
            isinstance(node.func, ast.Name)
            and node.func.id in FUNCTIONS
            and all(map(_is_size, parts))
        )
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and _is_size(node.operand)
    if isinstance(node, ast.Name):
        return node.id in ("true", "false") or re.fullmatch(r"[suz]+\d+", node.id) is not None
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.fullmatch(r"[\w.+-]*", node.value, re.ASCII) is not None
    return isinstance(node, ast.Constant)


def _refusal(path: Path, what: str) -> InputError:
    return InputError(
        f"expected a program saved by torch.export.save at {path}, of plain tensors and operators "
        f"alone, got {what}; it was not opened, since the rest could run as code: export it again, "
        "or give the detector as file.py:function"
    )
