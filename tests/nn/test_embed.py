"""Embeddings against their formulas; patches there and back."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convflow.nn.embed import (
    LabelEmbedding,
    PatchEmbedding,
    PatchHead,
    TimeEmbedding,
    rotary_positions,
    rotate,
    sincos_positions,
    unpatchify,
)
from tests.tolerance import assert_close_rms


def test_time_embedding_is_cosines_then_sines_through_a_small_network():
    embed, t = TimeEmbedding(6), torch.tensor([0.0, 0.25, 1.0, 999.0])
    waves = torch.tensor(
        [
            [f(float(s) * 10000 ** (-k / 128)) for f in (math.cos, math.sin) for k in range(128)]
            for s in t
        ]
    )
    for layer in (embed.hidden, embed.out):
        torch.nn.init.normal_(layer.bias)
    hidden = torch.nn.functional.silu(waves @ embed.hidden.weight.T + embed.hidden.bias)
    expected = hidden @ embed.out.weight.T + embed.out.bias
    # At t = 999 the angle itself is known to 3e-5 only: float32, as published.
    assert_close_rms(embed(t)[:3], expected[:3])
    torch.testing.assert_close(embed(t)[3], expected[3], rtol=0, atol=1e-3)


def test_between_its_layers_a_time_embedding_may_be_narrower():
    embed = TimeEmbedding(6, hidden=4)
    assert embed.hidden.weight.shape == (4, 256)
    assert embed(torch.rand(3)).shape == (3, 6)


def test_times_are_not_rounded_to_the_dtype_of_the_weights():
    embed, times = TimeEmbedding(6).bfloat16(), torch.tensor([500.0, 501.0])
    assert times.bfloat16()[0] == times.bfloat16()[1]
    first, second = embed(times)
    assert first.dtype == torch.bfloat16
    assert not first.equal(second)


def test_label_embedding_has_a_row_for_no_label():
    embed = LabelEmbedding(5, 4)
    assert embed.weight.shape == (6, 4)
    assert embed(torch.tensor([5, 0])).equal(embed.weight[[5, 0]])
    with pytest.raises(IndexError):
        embed(torch.tensor([6]))


def test_a_patch_becomes_one_vector_at_its_place():
    embed, x = PatchEmbedding(3, 5, 2), torch.randn(2, 3, 4, 6)
    out = embed(x)
    assert out.shape == (2, 2, 3, 5)
    patch = x[1, :, 2:4, 4:6].flatten()
    assert_close_rms(out[1, 1, 2], embed.weight.flatten(1) @ patch)


@given(
    st.integers(0, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4)
)
def test_unpatchify_undoes_patches_on_rectangles(batch, rows, columns, patch, channels):
    count = batch * channels * rows * columns * patch**2
    x = torch.arange(float(count)).view(batch, channels, rows * patch, columns * patch)
    patches = x.unfold(2, patch, patch).unfold(3, patch, patch)  # B C h w row column
    patches = patches.permute(0, 2, 3, 4, 5, 1).flatten(3)
    assert unpatchify(patches, patch, channels).equal(x)


def test_a_new_head_predicts_zero_and_then_modulated_patches():
    head, x, c = PatchHead(6, 2, 3), torch.randn(2, 4, 5, 6), torch.randn(2, 6)
    assert not head(x, c).any()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    shift, scale = head.modulation(c)
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
    cell = normed[1, 2, 3] * (1 + scale[1]) + shift[1]
    patch = (head.out.weight @ cell + head.out.bias).view(2, 2, 3).permute(2, 0, 1)
    assert_close_rms(head(x, c)[1, :, 4:6, 6:8], patch)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (4, 4), (2, 5), (7, 3)])
def test_fixed_positions_are_their_formula(rows, columns):
    """First half of the channels: the column; in each half sines, then cosines."""
    width, table = 12, torch.zeros(rows, columns, 12, dtype=torch.float64)
    for row in range(rows):
        for column in range(columns):
            for half, place in enumerate((column, row)):
                for k in range(width // 4):
                    angle = place / 10000 ** (k / (width // 4))
                    at = half * width // 2 + k
                    table[row, column, at] = math.sin(angle)
                    table[row, column, at + width // 4] = math.cos(angle)
    assert_close_rms(sincos_positions(rows, columns, width, table), table)
    single = sincos_positions(rows, columns, width, torch.zeros(1, dtype=torch.bfloat16))
    assert single.dtype == torch.float32
    assert_close_rms(single, table)


@given(st.integers(-3, 3), st.integers(-3, 3), st.sampled_from([4, 8, 12]))
def test_products_of_rotated_vectors_depend_on_offsets_alone(down, right, width):
    x = torch.randn(2, width, dtype=torch.float64, generator=torch.Generator().manual_seed(width))
    q, k = (v.expand(7, 7, width) for v in x)
    rotation = rotary_positions(7, 7, width, x)
    q, k = rotate(q, rotation), rotate(k, rotation)
    assert_close_rms(q.norm(dim=-1), x[0].norm().expand(7, 7))
    scores = torch.einsum("hwc,ijc->hwij", q, k)
    there = [
        scores[i, j, i + down, j + right]
        for i in range(max(0, -down), min(7, 7 - down))
        for j in range(max(0, -right), min(7, 7 - right))
    ]
    assert_close_rms(torch.stack(there), there[0].expand(len(there)))
    if down:
        assert not torch.isclose(there[0], scores[3, 3, 3, 3 + right])
    if right:
        assert not torch.isclose(there[0], scores[3, 3, 3 + down, 3])


def test_a_rotation_turns_in_float32_and_keeps_the_dtype():
    x = torch.randn(3, 4, 8)
    rotation = rotary_positions(3, 4, 8, x)
    assert rotate(x.bfloat16(), rotation).dtype == torch.bfloat16
    assert rotate(x.bfloat16(), rotation).equal(rotate(x.bfloat16().float(), rotation).bfloat16())
    assert rotate(x, rotation)[0, 0].equal(x[0, 0])
