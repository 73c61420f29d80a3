"""What every network has in common: settings, its folder, the check of the input."""

from __future__ import annotations

import json

import pytest
import torch

from convflow.models.zoo import create_model, load_model
from convflow.types import InputError
from tests.cases import TINY, build, inputs


def test_settings_are_all_arguments_also_those_by_default():
    model = create_model("flowdcn", **TINY)
    assert model.settings == {
        "family": "flowdcn",
        **TINY,
        "patch_size": 2,
        "reach": 6.0,
        "norm": "rms",
        "mlp": "swiglu",
        "border": "zeros",
        "discard_half": False,
        "mix": "deform",
        "kernel_size": 3,
        "learned_variance": False,
        "time_scale": 1.0,
        "second_time": False,
        "told_guidance": False,
        "temporal": "none",
        "cross_attention": 0,
        "text_width": 0,
        "pooled_width": 0,
        "text_length": 0,
        "text_rows": 0,
        "text_depth": 0,
    }


def test_the_folder_holds_safetensors_and_readable_settings(tmp_path):
    model = build("flowdcn-truncate")
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == model.settings
    assert {"config.json", "model.safetensors"} <= {path.name for path in tmp_path.iterdir()}


def test_other_weights_can_be_saved_in_its_place(tmp_path):
    model, other = build("flowdcn"), build("flowdcn", perturbed=False)
    model.save_weights(tmp_path, other.state_dict())
    out = load_model(tmp_path)(*inputs(model))
    assert out.equal(other(*inputs(model)))
    assert not out.equal(model(*inputs(model)))


def test_views_and_transposed_weights_are_saved(tmp_path):
    model = build("flowdcn")
    expected = model(*inputs(model))
    model.blocks[0].mix.out.weight.data = model.blocks[0].mix.out.weight.data.t().contiguous().t()
    model.save_pretrained(tmp_path)
    assert load_model(tmp_path)(*inputs(model)).equal(expected)


def test_the_channels_must_fit(unchecked):
    model = build("flowdcn")
    _, t, y = inputs(model)
    for x in (torch.zeros(3, 4, 8, 8), torch.zeros(3, 8, 8)):
        with pytest.raises(InputError, match=r"shape \(B, 3, H, W\), got \(3, "):
            model(x, t, y)
