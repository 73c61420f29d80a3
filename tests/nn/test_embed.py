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
    unpatchify,
)
from convflow.types import InputError
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


def test_a_scale_multiplies_the_times_and_leaves_the_layers_to_torch():
    published, scaled = TimeEmbedding(64), TimeEmbedding(64, scale=1000.0)
    assert published.out.weight.std() < 0.025 < scaled.out.weight.std()
    assert not published.out.bias.any()
    assert scaled.out.bias.any()
    published.load_state_dict(scaled.state_dict())
    t = torch.rand(5)
    assert scaled(t).equal(published(1000 * t))


def test_a_scale_of_guidance_is_told_by_its_logarithm_and_begins_as_nothing():
    embed, numbers = TimeEmbedding(8), torch.tensor([[0.2, 0.9, 1.0], [0.2, 0.9, 5.0]])
    with pytest.raises(InputError, match="expected second_time with told_guidance"):
        embed.tell_guidance()
    embed.tell_span()
    before = embed(numbers[:, :2])
    embed.tell_guidance()
    assert embed(numbers).equal(before)
    torch.nn.init.normal_(embed.guide.out.weight)
    plain = TimeEmbedding(8, scale=10.0)
    plain.load_state_dict(embed.guide.state_dict())
    torch.testing.assert_close(embed(numbers), before + plain(numbers[:, 2].log()))
    assert not embed(numbers)[0].allclose(embed(numbers)[1])


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
