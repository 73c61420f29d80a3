"""Networks in files of other programs: found under any prefix, and what lies beside is told."""

from __future__ import annotations

import pytest
import torch

from convflow.models.layouts import SIGNS
from convflow.models.published import take_network
from convflow.types import InputError

SIGN = SIGNS["dit"]


def network(value, **more):
    return {SIGN: torch.full((2,), value), "norm": torch.full((3,), value), **more}


def under(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


RAW, EMA = network(1.0), network(2.0)
SCALAR = torch.tensor(1)


@pytest.mark.parametrize(
    "content",
    [
        RAW,
        *(under(prefix, RAW) for prefix in ("module.", "_orig_mod.", "module._orig_mod.", "x.y.")),
        under("module.module.", RAW),
        {"model": under("_orig_mod.module.", RAW)},
        {"net": {"state_dict": under("net.", RAW)}},
        {"blocks.0._orig_mod.attn.qkv.weight": RAW[SIGN], "_orig_mod.norm": RAW["norm"]},
    ],
)
def test_a_network_is_found_by_its_sign(content):
    found = take_network(content, "there")
    assert not found.part.averaged
    assert found.part.layout == "dit"
    assert {name: tensor[0].item() for name, tensor in found.part.tensors.items()} == {
        SIGN: 1.0,
        "norm": 1.0,
    }
    assert found.dropped == []


@pytest.mark.parametrize(
    ("content", "name", "dropped"),
    [
        ({"model": RAW, "ema": EMA}, "ema", ["model"]),
        ({"model": RAW, "model_ema": under("module.", EMA)}, "model_ema.module", ["model"]),
        ({"state_dict": RAW, "state_dict_ema": EMA}, "state_dict_ema", ["state_dict"]),
        ({"net": RAW, "net_ema": EMA, "opt": {"state": {}}}, "net_ema", ["net", "opt"]),
        (
            {"state_dict": under("denoiser.", RAW) | under("ema_denoiser.", EMA), "epoch": 3},
            "state_dict.ema_denoiser",
            ["state_dict.denoiser", "epoch"],
        ),
        (under("model.", RAW) | under("ema_model.", EMA), "ema_model", ["model"]),
        (RAW | under("ema.", EMA), "ema", ["the rest"]),
        (
            {"ema": under("online_model.", RAW) | under("ema_model.", EMA) | {"initted": SCALAR}},
            "ema.ema_model",
            ["ema.online_model", "initted"],
        ),
        (under("module.", EMA) | {"n_averaged": SCALAR}, "module", ["n_averaged"]),
        (
            {"ema": {**EMA, "projectors.0.0.weight": SCALAR, "projectors.0.2.weight": SCALAR}},
            "ema",
            ["projectors.*"],
        ),
        (
            {"state_dict": under("ema_net.", EMA) | {"loss.lpips.lin0.weight": torch.ones(3)}},
            "state_dict.ema_net",
            ["loss.*"],
        ),
        ({**under("ema.", EMA), "step": 7}, "ema", ["step"]),
        ({"model": RAW, "ema": [EMA]}, "ema.0", ["model"]),
        ({"models": (RAW, {"ema": EMA})}, "models.1.ema", ["models.0"]),
        ({"model": RAW, "ema0.9999": EMA}, "ema0.9999", ["model"]),
        ({"model": EMA, "model_no_ema": RAW, "ema2": EMA}, "ema2", ["model", "model_no_ema"]),
        (under("non_ema.", RAW) | under("ema.", EMA), "ema", ["non_ema"]),
    ],
)
def test_the_average_is_taken_and_the_rest_is_told(content, name, dropped):
    found = take_network(content, "there")
    assert found.part.averaged
    assert (found.part.name, found.dropped) == (name, dropped)
    assert {tensor[0].item() for tensor in found.part.tensors.values()} == {2.0}
    assert found.part.tensors.keys() == RAW.keys()
    assert "averaged weights in" in found.describe()
    assert all(each in found.describe() for each in dropped)


@pytest.mark.parametrize("name", ["non_ema", "model_no_ema", "nonema", "model-without-ema"])
def test_what_is_no_average_is_not_taken_for_one(name):
    with pytest.raises(InputError, match=f"got 2 that could be meant: target, {name}; choose"):
        take_network({"target": EMA, name: RAW}, "there")
    assert not take_network({name: RAW}, "there").part.averaged


def test_where_several_could_be_meant_a_choice_is_asked_for():
    several = {"ema_0.999": EMA, "ema_0.9999": RAW, "model": RAW}
    message = "got 2 that could be meant: ema_0.999, ema_0.9999; choose with part="
    with pytest.raises(InputError, match=message):
        take_network(several, "there")
    assert take_network(several, "there", part="ema_0.999").part.name == "ema_0.999"
    assert take_network(several, "there", part="model").part.averaged is False
    assert (
        take_network({"state_dict": under("a.", RAW) | under("b.", RAW)}, "", part="b").part.prefix
        == "b."
    )
    with pytest.raises(InputError, match="2 that could be meant: model, module; choose"):
        take_network({"model": RAW, "module": RAW}, "there")
    with pytest.raises(InputError, match=r"3 that could be meant: model, emas\.0, emas\.1; choose"):
        take_network({"model": RAW, "emas": [EMA, EMA]}, "there")
    with pytest.raises(InputError, match="unknown part 'modle'; did you mean 'model'"):
        take_network(several, "there", part="modle")
    both = {"both": network(0.0) | {"encoder_level_1.0.ca.1.weight": SCALAR}, "dico": {}}
    assert (
        take_network({"a": RAW, "b": under("x.", both["both"])}, "there", ("dico",), "b").part.name
        == "b.x"
    )


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (
            {"model": RAW, "ema": {"shadow_params": [torch.ones(2)], "decay": 0.9}},
            "ema.shadow_params",
        ),
        (
            under("model.", RAW) | {"model_ema.blocks0attnqkvweight": torch.ones(2)},
            "model_ema.blocks0",
        ),
        ({"model": RAW, "ema0.9999": [torch.ones(2)]}, "ema0.9999"),
        ({"model": RAW, "ema": {0.9999: [[torch.ones(2)]]}}, "ema.0.9999"),
        ({"model": RAW, "ema": {"stds": [0.05], "emas": [{"a": torch.ones(2)}]}}, "ema.emas"),
    ],
)
def test_an_average_under_no_names_is_not_passed_over(content, place):
    with pytest.raises(InputError, match=f"got {place}.*; give part='model' to take the raw ones"):
        take_network(content, "there")
    assert take_network(content, "there", part="model").part.tensors.keys() == RAW.keys()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "there: expected a state dict, got list"),
        ({}, "there: expected a state dict, got an empty dict"),
        ({"epoch": 3}, "of names and tensors, but it holds the int 'epoch'; give the part"),
        (
            under("net.", RAW) | {"encoder.conv1": SCALAR},
            "holds the Tensor 'encoder.conv1', which is",
        ),
        (RAW | {1: SCALAR}, "holds the Tensor 1, which is no part of the network"),
        (under("_orig_mod.", RAW) | RAW, "expected each tensor once, got _orig_mod.* and "),
    ],
)
def test_what_is_neither_the_network_nor_of_training_is_an_error(content, message):
    with pytest.raises(InputError, match=message):
        take_network(content, "there")


def test_tensors_of_no_layout_are_described_as_the_file_has_them():
    part = take_network(
        {"x": {"a": torch.zeros(2, 3), "b": SCALAR}, "y": {"c": SCALAR}}, "there"
    ).part
    assert part.layout is None
    assert part.describe() == "2 tensors such as a (2, 3), b ()"


def test_a_checkpoint_that_holds_itself_ends():
    content = {"model": RAW}
    content["self"] = content
    assert take_network(content, "there", part="model").part.name == "model"


@pytest.mark.parametrize("name", ["optimizer", "optimizer_states", "optim_state_dict"])
def test_the_averages_of_an_optimizer_are_none_of_weights(name):
    moments = {"state": {SIGN: {"exp_avg": torch.ones(2)}}}
    content = {"model": RAW, name: [moments] if name.endswith("s") else moments}
    assert take_network(content, "there").part.name == "model"
