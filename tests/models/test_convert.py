"""Published checkpoints in every wrapping, and those that must be refused."""

from __future__ import annotations

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import convflow
from convflow.models.convert import load_official
from convflow.models.flowdcn import FlowDCN
from convflow.types import InputError
from tests.cases import read_golden
from tests.tolerance import GOLDEN, assert_close_rms


@pytest.fixture(scope="module")
def golden():
    return read_golden("flowdcn_tiny")


def check(model, golden):
    _, _, (x, t, y), expected = golden
    assert_close_rms(model(x, t, y), expected, limit=GOLDEN)
    assert not model.training


def worse(state):
    return {name: tensor * 2 for name, tensor in state.items()}


WRAPPINGS = {
    "plain": lambda state: state,
    "ema": lambda state: {"ema": state, "model": worse(state), "opt": {"lr": 1}},
    "model": lambda state: {"model": state, "step": 7},
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("suffix", [None, ".pt", ".pth", ".ckpt"])
def test_state_dicts_and_pickles(golden, tmp_path, wrapping, suffix):
    content = WRAPPINGS[wrapping](golden[0])
    if suffix is None:
        return check(load_official(content, family="flowdcn"), golden)
    torch.save(content, tmp_path / f"weights{suffix}")
    return check(convflow.load_official(tmp_path / f"weights{suffix}"), golden)


def test_safetensors(golden, tmp_path):
    save_file(golden[0], tmp_path / "weights.safetensors")
    check(load_official(str(tmp_path / "weights.safetensors")), golden)


def test_half_precision_weights_become_float32(golden):
    model = load_official({name: tensor.half() for name, tensor in golden[0].items()})
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_state_dict_given_is_left_alone(golden):
    before = {name: tensor.clone() for name, tensor in golden[0].items()}
    model = load_official(golden[0])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(golden[0][name].equal(tensor) for name, tensor in before.items())


def test_sizes_are_read_off_the_tensors(golden):
    model = load_official(golden[0], keep_half=True)
    assert isinstance(model, FlowDCN)
    expected = {"width": 48, "depth": 3, "num_groups": 4, "num_classes": 10, "in_channels": 4}
    expected |= {"patch_size": 2, "border": "truncate", "discard_half": True}
    assert expected.items() <= model.settings.items()
    assert not load_official(golden[0]).settings["discard_half"]


def test_a_converted_model_survives_its_folder(golden, tmp_path):
    load_official(golden[0]).save_pretrained(tmp_path)
    check(convflow.load_model(tmp_path), golden)


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_wants_to_run_code_is_refused(golden, tmp_path):
    torch.save(golden[0] | {"x": Malice(tmp_path / "new")}, tmp_path / "new.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Malice(tmp_path / "new")))
    for file in ("new.pt", "old.pt"):
        with pytest.raises(InputError, match="wants to run code when it is opened, and was refuse"):
            load_official(tmp_path / file)
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_absent_and_damaged_files_are_named(golden, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    with pytest.raises(InputError, match=r"weights\.\w+, found no such file"):
        load_official(path)
    (save_file if suffix == ".safetensors" else torch.save)(golden[0], path)
    whole = path.read_bytes()
    for content in (b"", b"not a checkpoint", whole[:-2000], whole[:1000]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"weights\.\w+ is damaged"):
            load_official(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {}, "the state dict: expected a state dict, got dict"),
        (lambda s: s | {"epoch": 3}, "of tensors, but 'epoch' is none"),
        (lambda s: {"a": torch.zeros(2)}, "holds no published flowdcn weights"),
        (lambda s: {n: t for n, t in s.items() if "blocks." not in n}, "holds no published flowd"),
        (
            lambda s: {n: t.flatten() for n, t in s.items()},
            "the state dict holds no published flowdcn weights .*; name another family",
        ),
        (lambda s: s | {"extra": torch.zeros(1)}, "does not fit flowdcn: unused extra"),
        (
            lambda s: {n: t for n, t in s.items() if "1.norm1" not in n},
            "does not fit flowdcn: missing blocks.1.norm1.weight",
        ),
        (
            lambda s: s | {"final_layer.linear.bias": torch.zeros(31)},
            "holds no published flowdcn weights",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(golden, change, message):
    with pytest.raises(InputError, match=message):
        load_official(change(golden[0]))


def test_dico_is_read_alike(tmp_path):
    golden = read_golden("dico_tiny")
    weights, config, (x, t, y), expected = golden
    golden = (weights, config, (x, t.float(), y), expected)
    torch.save(WRAPPINGS["ema"](weights), tmp_path / "dico.pt")
    model = load_official(tmp_path / "dico.pt", family="dico")
    check(model, golden)
    assert model.settings == {
        "family": "dico",
        "in_channels": config["in_channels"],
        "num_classes": config["num_classes"],
        "width": config["hidden_size"],
        "depths": config["depth"],
        "mlp_ratio": config["mlp_ratio"],
        "kernel_size": 3,
        "attention": "cca",
        "activation": "gelu",
        "layout": "u",
        "learned_variance": True,
        "pad": False,
    }
    model.save_pretrained(tmp_path)
    check(convflow.load_model(tmp_path), golden)


def test_dico_without_variance_and_with_a_wider_kernel():
    given = read_golden("dico_tiny")[0]
    weights = {n: F.pad(t, (1, 1, 1, 1)) if ".conv2.w" in n else t for n, t in given.items()}
    weights |= {n: t[:4] for n, t in given.items() if "out_proj" in n}
    model, whole = load_official(weights, "dico"), load_official(given, "dico")
    assert (model.settings["kernel_size"], model.learned_variance) == (5, False)
    x, t, y = read_golden("dico_tiny")[2]
    assert_close_rms(model(x, t.float(), y), whole(x, t.float(), y)[:, :4])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"extra": torch.zeros(1)}, "does not fit dico: unused extra"),
        (
            lambda s: {n: t for n, t in s.items() if "latent.0.ca" not in n},
            r"does not fit dico: missing body\.stages\.2\.0\.mix\.attention\.score",
        ),
        (lambda s: {n: t for n, t in s.items() if "latent" not in n}, "no published dico weights"),
        (lambda s: read_golden("flowdcn_tiny")[0], "no published dico weights .*; name another"),
    ],
)
def test_dico_tensors_that_do_not_fit_are_named(change, message):
    with pytest.raises(InputError, match=message):
        load_official(change(read_golden("dico_tiny")[0]), family="dico")


def test_an_unknown_family_is_refused(golden):
    message = r"unknown family of published weights 'flowdc'; did you mean 'flowdcn'\?"
    with pytest.raises(InputError, match=message):
        load_official(golden[0], family="flowdc")
