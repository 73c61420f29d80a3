"""FCDM: its block by hand, its parts, and the published counts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from convflow.models.fcdm import FCDMBlock
from convflow.models.zoo import SIZES, create_model
from convflow.types import InputError
from tests.cases import TINY_DICO, build, inputs, perturb
from tests.tolerance import assert_close_rms


def test_the_block_is_one_gated_residual():
    block = perturb(FCDMBlock(6), 0.3).double()
    x, c = torch.randn(2, 3, 5, 6, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    linear, (into, _, response, out) = block.modulation[1], block.mlp
    shift, scale, gate = (F.silu(c) @ linear.weight.T + linear.bias)[:, None, None].split(6, -1)
    weight, bias = block.depthwise.weight, block.depthwise.bias
    assert weight.shape == (6, 1, 7, 7)
    filtered = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=3, groups=6)
    centred = filtered.permute(0, 2, 3, 1)
    centred = centred - centred.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    hidden = (normed * (1 + scale) + shift) @ into.weight.T + into.bias
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    assert hidden.shape[-1] == 18
    g = hidden.square().sum((1, 2), keepdim=True).sqrt()
    hidden = response.gamma * hidden * g / (g.mean(-1, keepdim=True) + 1e-6) + (
        response.beta + hidden
    )
    assert_close_rms(block(x, c), x + gate * (hidden @ out.weight.T + out.bias))


def test_its_four_parts_make_the_whole():
    model = build("fcdm")
    x, t, y = inputs(model)
    c = model.condition(t, y)
    assert [level.shape[1] for level in c] == [8, 16, 32]
    assert model.head(model.trunk(model.stem(x), c), c).equal(model(x, t, y))
    refined = F.conv2d(
        model.body(model.stem(x), c).permute(0, 3, 1, 2),
        *(model.refine.weight, model.refine.bias),
        padding=1,
    )
    assert_close_rms(model.trunk(model.stem(x), c), refined.permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("name", "params", "gmacs", "gmacs_512"),
    [
        ("fcdm-s", 32.7, "3.07", None),
        ("fcdm-b", 127.7, "12.1", None),
        ("fcdm-l", 504.5, "48.2", None),
        ("fcdm-xl", 698.8, "64.5", "257.5"),
    ],
)
def test_the_published_counts_are_met_to_the_last_digit(name, params, gmacs, gmacs_512):
    """That `SIZES` are the counts of our network is checked in test_zoo.py."""
    size = SIZES[name]
    assert round(size.params / 1e6, 1) == params
    for ours, published in zip(size.gmacs, (gmacs, gmacs_512), strict=False):
        if published:
            assert f"{ours:.{len(published.partition('.')[2])}f}" == published


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"width": 0}, "width: expected a whole number of at least 1, got '0'"),
        ({"width": 7}, "expected an even width and 5 depths"),
        ({"num_classes": -1}, "num_classes: expected a whole number of at least 0, got '-1'"),
        ({"depths": [1, 1]}, r"5 depths of at least 1, .* depths \[1, 1\]"),
    ],
)
def test_impossible_settings_are_refused(bad, message):
    with pytest.raises(InputError, match=message):
        create_model("fcdm", **TINY_DICO | bad)
