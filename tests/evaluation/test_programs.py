"""Programs of torch.export: the honest open, and what would run code on opening is refused."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile

import pytest
import torch
from torch import nn
from torch.export import Dim

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
