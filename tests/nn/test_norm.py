"""Norms and modulation against their formulas."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from convflow.nn.norm import Modulation, RMSNorm, create_norm, gated, modulate, per_sample, widen
from convflow.types import InputError
from tests.tolerance import assert_close_rms


@pytest.mark.parametrize("shape", [(7,), (2, 7), (2, 3, 4, 7), (0, 7)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rms_norm_is_its_formula(shape, dtype):
    norm = RMSNorm(7)
    nn.init.normal_(norm.weight)
    x = (5 * torch.randn(shape)).to(dtype)
    out = norm.to(torch.float64 if dtype == torch.float64 else torch.float32)(x)
    full = x.double()
    mean_square = full.square().sum(-1, keepdim=True) / 7
    expected = full / (mean_square + 1e-6).sqrt() * norm.weight.double()
    assert out.dtype == dtype
    assert_close_rms(out, expected)


def test_rms_norm_does_not_overflow_in_float16():
    x = torch.full((1, 8), 6e4, dtype=torch.float16)
    assert RMSNorm(8)(x).tolist() == [[1.0] * 8]


def test_layer_norm_agrees_with_torch():
    x = torch.randn(2, 3, 7)
    expected = nn.functional.layer_norm(x, (7,), eps=1e-6)
    assert_close_rms(create_norm("layer", 7)(x), expected)
    assert len(list(create_norm("layer", 7).parameters())) == 2
    assert isinstance(create_norm("rms", 7), RMSNorm)


def test_an_unknown_norm_is_refused(unchecked):
    with pytest.raises(InputError, match=r"unknown norm 'layr'; did you mean 'layer'\?"):
        create_norm("layr", 7)


@pytest.mark.parametrize("positions", [(), (5,), (2, 3)])
def test_modulation_scales_and_shifts_each_sample(positions):
    x, shift, scale = torch.randn(2, *positions, 4), torch.randn(2, 4), torch.randn(2, 4)
    out = modulate(x, shift, scale)
    for i in range(2):
        assert_close_rms(out[i], x[i] * (1 + scale[i]) + shift[i])
    assert per_sample(shift, x).shape == (2, *(1 for _ in positions), 4)


def test_a_new_modulation_is_zero_and_has_a_silu_inside():
    modulation, c = Modulation(4, 6), torch.randn(3, 4)
    parts = modulation(c)
    assert [part.shape for part in parts] == [(3, 4)] * 6
    assert not torch.cat(parts).any()
    nn.init.normal_(modulation[1].weight)
    expected = (c * torch.sigmoid(c)) @ modulation[1].weight.T
    assert_close_rms(torch.cat(modulation(c), -1), expected)


def test_widen_keeps_float64():
    kinds = {torch.float64: torch.float64, torch.float32: torch.float32}
    for dtype, expected in (kinds | {torch.bfloat16: torch.float32}).items():
        assert widen(torch.zeros(1, dtype=dtype)).dtype == expected


def test_a_gate_opens_per_sample_and_channel():
    x, update, gate = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5), torch.randn(2, 5)
    out = gated(x, gate, update)
    for b, h, w, d in itertools.product(*map(range, x.shape)):
        expected = x[b, h, w, d] + gate[b, d] * update[b, h, w, d]
        assert out[b, h, w, d].item() == pytest.approx(expected.item(), abs=1e-6)
    assert gated(x, gate.bfloat16(), update.bfloat16()).dtype == torch.float32
