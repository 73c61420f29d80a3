"""Attention against its arithmetic; heads, norms of queries and keys, rotary offsets."""

from __future__ import annotations

import math

import pytest
import torch

from convflow.nn.attention import Attention
from convflow.nn.positions import rotary_positions
from convflow.types import InputError
from tests.tolerance import assert_close_rms


def build(width=16, num_heads=2, **options):
    attention = Attention(width, num_heads, **options).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return attention


def expected(attention, x, heads, rotation=None):
    """Plain sums over all positions, the rotation made with complex numbers."""
    batch, height, width, channels = x.shape
    flat = x.reshape(batch, height * width, channels)
    weight = attention.qkv.weight.view(3, heads, channels // heads, channels)
    bias = attention.qkv.bias.view(3, 1, heads, 1, channels // heads)
    q, k, v = torch.einsum("sedc,bnc->sbend", weight, flat) + bias
    if attention.norm_q.__class__.__name__ == "RMSNorm":
        q = q / (q.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * attention.norm_q.weight
        k = k / (k.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * attention.norm_k.weight
    if rotation is not None:
        turn = torch.complex(*rotation.flatten(1, 2))
        q, k = (torch.complex(*z.chunk(2, -1)) * turn for z in (q, k))
    scores = torch.einsum("bend,bemd->benm", q, k.conj()).real / math.sqrt(channels // heads)
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    gathered = torch.einsum("benm,bemd->bned", weights, v).flatten(2)
    return (gathered @ attention.out.weight.T + attention.out.bias).view(x.shape)


@pytest.mark.parametrize(
    ("heads", "qk_norm", "rotary"),
    [(1, False, False), (2, True, False), (4, False, True), (2, True, True)],
)
def test_it_is_its_arithmetic(heads, qk_norm, rotary):
    attention = build(num_heads=heads, qk_norm=qk_norm)
    for shape in ((2, 3, 5), (1, 1, 1), (0, 2, 2)):
        x = torch.randn(*shape, 16, dtype=torch.float64)
        rotation = rotary_positions(*shape[1:], 16 // heads, x) if rotary else None
        assert_close_rms(attention(x, rotation), expected(attention, x, heads, rotation))


def test_positions_in_another_order_come_out_in_that_order():
    attention, x = build(), torch.randn(2, 3, 4, 16, dtype=torch.float64)
    order = torch.randperm(12)
    moved = x.flatten(1, 2)[:, order].view(x.shape)
    assert_close_rms(attention(moved), attention(x).flatten(1, 2)[:, order].view(x.shape))


def test_normed_queries_and_keys_do_not_feel_their_size():
    x = torch.randn(2, 3, 4, 16, dtype=torch.float64)
    for qk_norm in (False, True):
        attention = build(qk_norm=qk_norm)
        before = attention(x)
        with torch.no_grad():
            for part in (attention.qkv.weight, attention.qkv.bias):
                part[: 2 * 16] *= 100
        change = (attention(x) - before).norm() / before.norm()
        assert (change < 1e-4) == qk_norm


def test_a_new_layer_has_xavier_weights_and_no_bias():
    attention = Attention(32, 4)
    bound = math.sqrt(6 / (32 + 3 * 32))
    assert bound * 0.95 < attention.qkv.weight.abs().max() <= bound
    assert not attention.qkv.bias.any()
    assert not attention.out.bias.any()


def test_heads_must_divide_the_width():
    with pytest.raises(InputError, match="got width 16 and num_heads 3; change one of them"):
        Attention(16, 3)
