"""Programs of torch.export: the honest open, and what would run code on opening is refused."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim

from convflow.evaluation import programs
from convflow.evaluation.detectors import open_detector
from convflow.types import InputError

CPU = torch.device("cpu")
GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


class Network(nn.Module):
    """Weights, a constant, sizes that are computed, and a graph in the graph."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.constant = torch.tensor([2.0])
        self.register_buffer("empty", torch.zeros(0))

    def forward(self, images):
        with torch.no_grad():
            found = self.convolution(images.float() / 255) * self.constant
        found = nn.functional.interpolate(
            found, size=(images.shape[2] // 2 + 1, 3), mode="bilinear"
        )
        rows = found.mean((2, 3))
        return {"features": rows, "spatial": torch.einsum("bf,bg->bfg", rows, rows)}


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """Return the members of an archive that `torch.export.save` wrote, and its path."""
    path = tmp_path_factory.mktemp("program") / "small.pt2"
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    sides = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC}
    torch.export.save(
        torch.export.export(Network().eval(), (images,), dynamic_shapes=(sides,)), path
    )
    with zipfile.ZipFile(path) as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    return members, path


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def pickled(marker):
    whole = io.BytesIO()
    torch.save((Payload(marker),), whole)
    return whole.getvalue()


def edited(members, name, edit):
    tree = json.loads(members[name])
    edit(tree)
    return members | {name: json.dumps(tree).encode()}


def as_pickle(members, marker, name, entry, file, content):
    folder = name.rpartition("/")[0]
    more = {"path_name": file, "use_pickle": True, "is_param": False}
    changed = edited(members, name, lambda tree: tree["config"][entry].update(more))
    return changed | {f"{folder}/{file}": content(marker)}


def expression(marker):
    return f"__import__('os').mkdir({marker!r})"


def with_expression(members, marker):
    def edit(tree):
        sizes = tree["graph_module"]["graph"]["sym_int_values"]
        next(iter(sizes.values()))["as_expr"]["expr_str"] = expression(marker)

    return edited(members, GRAPH, edit)


def with_operator(members, marker):
    def edit(tree):
        graph = tree["graph_module"]["graph"]
        node = json.loads(json.dumps(graph["nodes"][0]))
        argument = {"name": "", "arg": {"as_string": marker}, "kind": 1}
        node.update(target="torch.serialization.os.mkdir", inputs=[argument], name="folder")
        node["outputs"] = [{"as_none": True}]
        graph["nodes"].insert(0, node)

    return edited(members, GRAPH, edit)


def renamed(members, marker, old, new):
    return members | {
        GRAPH: members[GRAPH].replace(json.dumps(old).encode(), json.dumps(new).encode())
    }


def with_arguments(members, marker):
    def edit(tree):
        signature = tree["graph_module"]["module_call_graph"][0]["signature"]
        signature["forward_arg_names"] = [f"images={expression(marker)}"]

    return edited(members, GRAPH, edit)


def with_key(members, marker):
    """Give the one argument by a name that is Python."""

    def edit(tree):
        signature = tree["graph_module"]["module_call_graph"][0]["signature"]
        version, spec = json.loads(signature["in_spec"])
        arguments, words = spec["children_spec"]
        words["context"] = json.dumps([f"images={expression(marker)}"])
        words["children_spec"] = arguments["children_spec"]
        arguments["children_spec"] = []
        signature["in_spec"] = json.dumps([version, spec])
        signature["forward_arg_names"] = None

    return edited(members, GRAPH, edit)


def with_parameter(members, marker):
    bad = f'convolution.w" + str({expression(marker)}) + "'
    changed = renamed(members, marker, "convolution.weight", bad)
    tree = json.loads(members[WEIGHTS])
    tree["config"][bad] = tree["config"].pop("convolution.weight")
    return changed | {WEIGHTS: json.dumps(tree).encode()}


def plain(marker):
    return pickle.dumps(Payload(marker))


def older(members, marker):
    """Make an archive as torch 2.7 wrote them."""
    return {
        "version": b"8.13",
        "serialized_exported_program.json": members[GRAPH],
        "serialized_state_dict.pt": pickled(marker),
        "serialized_constants.pt": b"",
        "serialized_example_inputs.pt": b"",
    }


ATTACKS = {
    "weight": lambda m, k: as_pickle(m, k, WEIGHTS, "convolution.weight", "weight_9", pickled),
    "constant": lambda m, k: as_pickle(m, k, CONSTANTS, "constant", "tensor_9", pickled),
    "object": lambda m, k: as_pickle(m, k, CONSTANTS, "constant", "opaque_obj_0", plain),
    "script": lambda m, k: as_pickle(m, k, CONSTANTS, "constant", "custom_obj_0", pickled),
    "legacy weights": lambda m, k: m | {"data/weights/model.pt": pickled(k)},
    "legacy constants": lambda m, k: m | {"data/constants/model.pt": pickled(k)},
    "guard": lambda m, k: edited(
        m, GRAPH, lambda tree: tree.update(guards_code=[f"{expression(k)} is None"])
    ),
    "inputs": lambda m, k: m | {"data/sample_inputs/model.pt": pickled(k)},
    "size": with_expression,
    "operator": with_operator,
    "input": lambda m, k: renamed(m, k, "images", f"images={expression(k)}"),
    "arguments": with_arguments,
    "key": with_key,
    "parameter": with_parameter,
    "library": lambda m, k: m | {"data/aotinductor/model/a.so": b"\x7fELF"},
    "other model": lambda m, k: m | {"models/other.json": m[GRAPH]},
    "older": older,
}
HARMLESS = {"guard", "inputs"}
"""What is never given to torch: such an archive opens."""


@pytest.mark.parametrize("kind", ATTACKS)
def test_nothing_in_an_archive_runs(honest, tmp_path, kind):
    members, path = honest
    marker, bad = tmp_path / "marker", tmp_path / "bad.pt2"
    with zipfile.ZipFile(bad, "w") as archive:
        for name, content in ATTACKS[kind](members, str(marker)).items():
            archive.writestr(name if kind == "older" else f"bad/{name}", content)
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    try:
        out, refused = open_detector(str(bad), device=CPU)(images), ""
    except InputError as error:
        out, refused = {}, str(error)
    assert not marker.exists()
    if kind in HARMLESS:
        assert out["features"].equal(open_detector(str(path), device=CPU)(images)["features"])
    else:
        assert "operators alone, got " in refused
        assert "it was not opened" in refused
        assert "\n" not in refused


class Plain(nn.Module):
    """What an attack's graph is written over: one operator of a buffer."""

    def __init__(self, numbers):
        super().__init__()
        self.register_buffer("numbers", numbers)

    def forward(self, images):
        return {"features": self.numbers.neg().float() + images.float().mean()}


def call_of(target, inputs):
    """Return an attack: another operator, called with given inputs."""

    def attack(tree):
        nodes = tree["graph_module"]["graph"]["nodes"]
        node = next(node for node in nodes if "neg" in node["target"])
        node["target"] = target
        node["inputs"] += [{"name": key, "arg": value, "kind": 1} for key, value in inputs]

    return attack


SPARSE = call_of(
    "torch.ops.aten._sparse_coo_tensor_unsafe.default",
    [("values", {"as_tensor": {"name": "numbers"}}), ("size", {"as_ints": [1]})],
)
WILD = """
import sys, torch
from convflow.evaluation import programs
from convflow.evaluation.detectors import open_detector
from convflow.types import InputError
try:
    detector = open_detector(sys.argv[1], device=torch.device("cpu"))
    detector(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
except InputError as error:
    print(error)
"""


def saved(network, path, decomposed=False, strict=False):
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    shapes = ({0: Dim.DYNAMIC},)
    program = torch.export.export(network.eval(), (images,), dynamic_shapes=shapes, strict=strict)
    torch.export.save(program.run_decompositions() if decomposed else program, path)
    return path


def rewritten(path, edit):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    graph = next(name for name in members if name.endswith(GRAPH))
    tree = json.loads(members[graph])
    edit(tree)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | {graph: json.dumps(tree).encode()}).items():
            archive.writestr(name, content)


def test_an_operator_that_writes_anywhere_is_refused(tmp_path):
    """In a process of its own: where it is opened, an index of 10**10 ends the process."""
    path = saved(Plain(torch.tensor([[10**10]])), tmp_path / "wild.pt2")
    rewritten(path, SPARSE)
    done = subprocess.run(
        [sys.executable, "-c", WILD, str(path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "got target 'torch.ops.aten._sparse_coo_tensor_unsafe.default'" in done.stdout


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten." + name
        for name in (
            "_sparse_csr_tensor_unsafe.default",
            "_nested_view_from_buffer.default",
            "resize_.default",
            "set_.source_Storage_storage_offset",
            "as_strided.default",
            "empty.memory_format",
            "native_batch_norm.default",
            "add.out",
            "neg.out",
            "topk.values",
            "view.dtype",
            "from_file.default",
            "quantize_per_tensor.default",
        )
    ]
    + ["_operator.pow", "_operator.lshift", "math.factorial", "torch.ops.prims.as_strided.default"],
)
def test_other_operators_are_refused(honest, target):
    assert not programs._is_harmless("target", target)


def test_a_sparse_layout_and_endless_powers_are_refused():
    with pytest.raises(InputError, match="the layout 1 in its graph"):
        programs._check(Path("x"), {"as_layout": 1}, "")
    size = "Pow(Symbol('s0', positive=True, integer=True), Integer(2))"
    assert programs._is_harmless("expr_str", size)
    assert not programs._is_harmless("expr_str", "Pow(Integer(9), Integer(999999999))")
    assert not programs._is_harmless("expr_str", f"Pow({size}, Integer(9))")


class Block(nn.Module):
    """Convolution, norms, attention, a table, sizes and borders."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(True), nn.GroupNorm(2, 8)
        )
        self.table = nn.Embedding(16, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.register_buffer("mask", torch.ones(16, 16, dtype=torch.bool).tril())

    def forward(self, images):
        x = self.stem(images / 255.0)
        x = nn.functional.interpolate(x, size=(12, 12), mode="bicubic", antialias=True)
        x = nn.functional.max_pool2d(nn.functional.pad(x, (2, 2, 2, 2), mode="reflect"), 4)
        x = x.flatten(2).transpose(1, 2) + self.table(torch.arange(16))
        q, k, v = (part.unsqueeze(1) for part in (x, x * 2, x + 1))
        x = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask).squeeze(1)
        return {"features": self.layer(x).mean(1)}


SLOW = [pytest.param(*way, marks=pytest.mark.slow) for way in ((True, False), (False, True))]


@pytest.mark.parametrize(("decomposed", "strict"), [(False, False), *SLOW])
def test_networks_open_however_they_were_exported(tmp_path, decomposed, strict):
    network = Block()
    path = saved(network, tmp_path / "x.pt2", decomposed, strict)
    images = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8)
    out = open_detector(str(path), device=CPU)(images)["features"]
    torch.testing.assert_close(out, network(images)["features"].detach())


def test_what_kernels_leave_unchecked_is_checked(tmp_path):
    x, aten, conv = torch.zeros(1, 8, 4, 4), torch.ops.aten, torch.ops.convflow
    ones = torch.ones(1)
    for operator, inputs in (
        (aten._native_batch_norm_legit_no_training.default, (x, ones, ones, ones, ones, 0.1, 1e-5)),
        (aten.scaled_dot_product_attention.default, (x, x, x[:, :, :1])),
        (aten._scaled_dot_product_flash_attention_for_cpu.default, (x, x[:, :1], x[:, :1])),
        (aten._upsample_bilinear2d_aa.default, (x, [8, 8], False, 1e-17, 1e-17)),
        (conv.deform_sample.default, (x[None], x, x, "zeros")),
    ):
        graph = torch.fx.Graph()
        names = [
            graph.placeholder(f"x{i}") if isinstance(value, torch.Tensor) else value
            for i, value in enumerate(inputs)
        ]
        graph.output(graph.call_function(operator, tuple(names)))
        network = torch.fx.GraphModule({}, graph)
        programs.check_calls(network)
        with pytest.raises(ValueError, match="expected"):
            network(*(value for value in inputs if isinstance(value, torch.Tensor)))
