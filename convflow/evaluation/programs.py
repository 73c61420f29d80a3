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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.pt2_archive import PT2ArchiveWriter
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from convflow.ops.deform.op import deform_sample, msdcn_sample
from convflow.ops.depthwise import depthwise_conv
from convflow.storage import LARGEST_JSON, parse_json
from convflow.types import InputError

GRAPH = "models/model.json"
TABLES = {
    "data/weights/": "data/weights/model_weights_config.json",
    "data/constants/": "data/constants/model_constants_config.json",
}
TENSORS = re.compile(r"(data/weights/weight_|data/constants/tensor_)\d+")
IGNORED = re.compile(  # what images do not need: never given to torch
    r"archive_format|archive_version|byteorder|\.(format_)?version|\.storage_alignment"
    r"|\.data/(version|serialization_id)|data/sample_inputs/model\.pt|extra/.*",
    re.DOTALL,
)

OPERATORS = set(  # dense, and their CPU kernels check sizes and indices; no other is safe to call
    # layers
    "batch_norm bmm addmm addbmm baddbmm convolution conv1d conv2d conv3d conv_transpose1d "
    "conv_transpose2d conv_transpose3d dot dropout dropout_ einsum embedding feature_dropout "
    "group_norm instance_norm layer_norm linear matmul mm mv native_group_norm native_layer_norm "
    "outer rms_norm _fused_rms_norm scaled_dot_product_attention "
    "_scaled_dot_product_flash_attention_for_cpu _native_batch_norm_legit_no_training "
    # activations
    "celu celu_ elu elu_ gelu gelu_ glu hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh "
    "hardtanh_ leaky_relu leaky_relu_ log_sigmoid log_softmax _log_softmax mish mish_ prelu "
    "_prelu_kernel relu relu_ relu6 relu6_ selu selu_ sigmoid sigmoid_ silu silu_ softmax _softmax "
    "_safe_softmax softplus softshrink tanh tanh_ threshold threshold_ "
    # pooling, sizes and borders
    "_adaptive_avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d "
    "constant_pad_nd im2col max_pool1d max_pool2d max_pool2d_with_indices max_pool3d pad "
    "reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d pixel_shuffle "
    "pixel_unshuffle upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d "
    "upsample_nearest2d upsample_nearest3d upsample_trilinear3d _upsample_bicubic2d_aa "
    "_upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d "
    # views, parts and joints
    "alias broadcast_tensors broadcast_to cartesian_prod cat chunk clone concat contiguous copy "
    "copy_ detach detach_ hstack vstack "
    "diagonal expand expand_as flatten flip gather index index_put index_put_ index_select "
    "lift_fresh lift_fresh_copy meshgrid movedim narrow numpy_T permute ravel repeat reshape "
    "reshape_as roll scatter select select_scatter slice slice_scatter split split_with_sizes "
    "squeeze stack swapaxes swapdims sym_numel sym_size t tensor_split tile transpose unbind "
    "unflatten unfold unsqueeze view view_as "
    # reductions and order
    "all amax amin any argmax argmin argsort cumprod cumsum frobenius_norm linalg_vector_norm "
    "logsumexp max mean median min norm prod sort std std_mean sum topk var var_mean "
    # elementwise
    "__and__ __or__ __xor__ abs acos add add_ addcdiv addcmul addcmul_ asin atan atan2 "
    "bitwise_and bitwise_not bitwise_or "
    "bitwise_xor ceil clamp clamp_ clamp_max clamp_max_ clamp_min clamp_min_ clip cos cosh div "
    "div_ divide eq erf erfc exp exp2 expm1 fill fill_ floor floor_divide fmod frac ge greater "
    "greater_equal gt isfinite isinf isnan le lerp less less_equal log log10 log1p log2 "
    "logical_and logical_not logical_or logical_xor logit lt masked_fill masked_fill_ maximum "
    "minimum mul mul_ multiply nan_to_num ne neg negative not_equal pow reciprocal remainder round "
    "rsqrt rsub sgn sign sin sinh sqrt square sub sub_ subtract tan tril triu true_divide trunc "
    "where zero zero_ "
    # new tensors and dtypes
    "_to_copy arange bool eye float full full_like int linspace long new_full new_ones "
    "new_zeros ones ones_like scalar_tensor to type_as zeros zeros_like "
    # assertions
    "_assert_async _assert_scalar _assert_tensor_metadata sym_constrain_range "
    "sym_constrain_range_for_size".split()
)
TARGET = re.compile(
    r"torch\.ops\.aten\.(?P<name>\w+)\.(?P<overload>[A-Za-z]\w*)"
    r"|torch\.ops\.aten\.repeat_interleave\.self_int"
    r"|torch\.ops\.prims\.convert_element_type\.default"
    r"|torch\.ops\.convflow\.(deform_sample|msdcn_sample|depthwise_conv)\.default"
    r"|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|and_|or_|eq|ne|le|ge|lt|gt)"
    r"|math\.(ceil|floor|trunc)|torch\.(sym_(float|int|ite|max|min|not)|_sym_sqrt)",
    re.ASCII,
)
STRIDED = 7
"""The layout of dense tensors in a graph."""
IDENTIFIER = re.compile(r"([A-Za-z_]\w*)?", re.ASCII)
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
SMALL = {f"Integer({number})" for number in range(-9, 10)}


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


def check_calls(network: nn.Module) -> None:
    """Make a built program check what kernels of torch, and ours, take unchecked.

    Sizes that do not fit would let them read memory beyond their tensors.
    """
    for graph in network.modules():
        if isinstance(graph, GraphModule):
            for node in graph.graph.nodes:
                if node.target in CHECKED:
                    node.target = CHECKED[node.target]
                elif (check := _check_of(node.target)) is not None:
                    node.args, node.target = (node.target, *node.args), check
            graph.recompile()


def _check_of(target: Any) -> Callable[..., Any] | None:
    name = getattr(target, "__name__", "")
    return next((check for part, check in CHECKS.items() if part in name), None)


def _normalise(operator: OpOverload, x: Tensor, *others: Any, **more: Any) -> Any:
    if any(isinstance(part, Tensor) and part.shape != x.shape[1:2] for part in others):
        raise ValueError(f"expected {x.shape[1:2]} numbers, one for each channel")
    return operator(x, *others, **more)


def _attend(operator: OpOverload, *tensors: Any, **more: Any) -> Any:
    query, key, value, *_ = (part.shape for part in tensors[:3])
    heads = (query[:-2], key[:-2], value[:-2])
    if key[-2] != value[-2] or ("flash" in operator.__name__ and len(set(heads)) > 1):
        raise ValueError(f"expected queries, keys and values that fit, got {query, key, value}")
    return operator(*tensors, **more)


def _resize(operator: OpOverload, *inputs: Any, **more: Any) -> Any:
    scales = pytree.tree_leaves((inputs[1:], more))
    if not all(2**-10 <= scale <= 2**10 for scale in scales if isinstance(scale, float)):
        raise ValueError(f"expected scales of 1/1024 to 1024, got {scales}")
    return operator(*inputs, **more)


CHECKS = {"batch_norm_legit": _normalise, "scaled_dot_product": _attend, "upsample": _resize}
CHECKED = {
    torch.ops.convflow.deform_sample.default: deform_sample,
    torch.ops.convflow.msdcn_sample.default: msdcn_sample,
    torch.ops.convflow.depthwise_conv.default: depthwise_conv,
}


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
            if name == "as_operator" or not (DOTTED if dotted else IDENTIFIER).fullmatch(name):
                raise _refusal(path, f"{name!r} in its graph")
            if name in ("layout", "as_layout") and item != STRIDED:
                raise _refusal(path, f"the layout {item!r} in its graph")
            _check(path, item, name)
    elif isinstance(tree, str) and not _is_harmless(key, tree):
        raise _refusal(path, f"{key} {tree[:80]!r} in its graph")


def _is_harmless(key: str, text: str) -> bool:
    """Return whether a text is what torch's own exporter writes at such a place."""
    if key == "target":
        found = TARGET.fullmatch(text)
        return found is not None and (found["name"] is None or _is_safe(**found.groupdict()))
    if key == "expr_str":
        return _is_size(ast.parse(text, mode="eval").body)
    if key in ("in_spec", "out_spec"):
        _, tree = json.loads(text)
        return _is_structure(tree)
    if key == "as_string":  # an argument of an operator of torch
        return True
    return (DOTTED if key in DOTTED_KEYS else IDENTIFIER).fullmatch(text) is not None


def _is_safe(name: str, overload: str) -> bool:
    """Return whether an operator of torch is listed, and writes into no tensor given as `out`.

    A view as another dtype may make truth values that are neither 0 nor 1.
    """
    if name not in OPERATORS or (name, overload) == ("view", "dtype"):
        return False
    operator = getattr(getattr(torch.ops.aten, name), overload)
    return not any(argument.is_out for argument in operator._schema.arguments)


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
            and ("Pow" not in node.func.id or _is_small_power(parts))
        )
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and _is_size(node.operand)
    if isinstance(node, ast.Name):
        return node.id in ("true", "false") or re.fullmatch(r"[suz]+\d+", node.id) is not None
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.fullmatch(r"[\w.+-]*", node.value, re.ASCII) is not None
    return isinstance(node, ast.Constant)


def _is_small_power(parts: list[ast.expr]) -> bool:
    """Return whether a power cannot become an endless integer: of no power, and at most 9."""
    if len(parts) != 2:
        return False
    base, exponent = parts
    return "Pow" not in ast.dump(base) and ast.unparse(exponent) in SMALL


def _refusal(path: Path, what: str) -> InputError:
    return InputError(
        f"expected a program saved by torch.export.save at {path}, of plain tensors and operators "
        f"alone, got {what}; it was not opened, since the rest could run as code: export it again, "
        "or give the detector as file.py:function"
    )
