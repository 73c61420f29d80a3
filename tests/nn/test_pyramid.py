"""Stems and heads of a coarse scale against those of the finest and torch's shuffles; masks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convflow.nn.conv import ConvHead, ConvStem
from convflow.nn.embed import PatchEmbedding, PatchHead
from convflow.nn.pyramid import (
    CoarseHead,
    CoarseStem,
    MeanHead,
    RepeatStem,
    StageEmbedding,
    add_conditions,
    masked,
)
from tests.tolerance import assert_close_rms

C, D = 3, 6


def noisy(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.double()


def loudest(module: nn.Conv2d) -> float:
    """The largest weight, of many drawn from a range: nearly its end."""
    return module.weight.abs().max().item()


def first(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 3, 1, 2)


def last(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1)


def fine_stem(patch: int) -> nn.Conv2d:
    """Patches of so many pixels, or a 3x3 convolution for zero."""
    return PatchEmbedding(C, D, patch) if patch else ConvStem(C, D, 3)


@pytest.mark.parametrize(
    ("patch", "downsampling", "coarse_patch", "cells"),
    [
        (2, 2, 1, 1),
        (4, 2, 2, 1),
        (2, 4, 1, 2),
        (2, 3, 2, 3),
        (4, 6, 2, 3),
        (1, 2, 1, 2),
        (0, 2, 1, 2),
        (0, 3, 1, 3),
    ],
)
def test_a_coarse_stem_and_head_are_a_convolution_and_a_shuffle(
    patch, downsampling, coarse_patch, cells
):
    fine = fine_stem(patch)
    stem = noisy(CoarseStem(fine, downsampling))
    assert (stem.patch_size, stem.cells) == (coarse_patch, cells)
    rows, columns = 2 * coarse_patch, 3 * coarse_patch
    x = torch.randn(2, C, rows, columns, dtype=torch.float64)
    filtered = F.conv2d(x, stem.weight, stem.bias, stride=coarse_patch, padding=int(not patch))
    features = stem(x)
    assert_close_rms(features, last(F.pixel_shuffle(filtered, cells)))
    assert features.is_contiguous()
    # The grid is that of the finest scale.
    large = torch.zeros(2, C, rows * downsampling, columns * downsampling)
    assert features.shape == fine(large).shape

    head, c = noisy(CoarseHead(D, stem)), torch.randn(2, D, dtype=torch.float64)
    shift, scale = (part[:, None, None] for part in head.modulation(c))
    refined = F.layer_norm(features, (D,), eps=1e-6) * (1 + scale) + shift
    cells_down = F.pixel_unshuffle(first(refined), cells)
    flat = F.conv2d(cells_down, head.out.weight, head.out.bias, padding=int(not patch))
    # A patch holds (row, column, channel); pixel_shuffle wants (channel, row, column).
    pixels = flat.unflatten(1, (-1, C)).transpose(1, 2).flatten(1, 2)
    out = head(features, c)
    assert out.shape == x.shape
    assert_close_rms(out, F.pixel_shuffle(pixels, coarse_patch))


def test_where_the_shrinkage_divides_the_patch_they_are_a_smaller_patch():
    stem, plain = CoarseStem(PatchEmbedding(C, D, 6), 2), PatchEmbedding(C, D, 3)
    head, plain_head = noisy(CoarseHead(D, stem)), PatchHead(D, 3, C).double()
    assert [p.shape for p in stem.parameters()] == [p.shape for p in plain.parameters()]
    # Drawn from the same range.
    assert loudest(stem) == pytest.approx(loudest(plain), rel=0.05)
    plain.load_state_dict(noisy(stem).state_dict())
    x, c = torch.randn(2, C, 6, 9).double(), torch.randn(2, D).double()
    assert_close_rms(stem(x), plain.double()(x))
    state = {
        name: value.view(plain_head.state_dict()[name].shape)
        for name, value in head.state_dict().items()
    }
    plain_head.load_state_dict(state)
    assert_close_rms(head(stem(x), c), plain_head(stem(x), c))


@pytest.mark.parametrize("patch", [0, 2])
def test_new_ones_speak_as_loud_as_the_finest_and_predict_zero(patch):
    """Cells of a shuffle are maps of their own: more of them make none of them smaller."""
    fine = PatchEmbedding(C, 64, patch) if patch else ConvStem(C, 64)
    stem = CoarseStem(fine, 4)
    own = CoarseStem(PatchEmbedding(C, 64, 1), 1) if patch else fine
    assert loudest(stem) == pytest.approx(loudest(own), rel=0.05)
    assert not stem.bias.any()
    head = CoarseHead(64, stem)
    assert not head(torch.randn(1, 8, 8, 64), torch.randn(1, 64)).any()


@pytest.mark.parametrize("patch", [0, 2])
def test_repeated_in_and_averaged_out(patch):
    stem = noisy(fine_stem(patch))
    head = noisy(PatchHead(D, patch, C) if patch else ConvHead(D, C))
    x, c = torch.randn(2, C, 2, 4).double(), torch.randn(2, D).double()
    features = RepeatStem(stem, 2)(x)
    assert_close_rms(features, stem(F.interpolate(x, scale_factor=2)))
    assert_close_rms(MeanHead(head, 2)(features, c), F.avg_pool2d(head(features, c), 2))


def test_a_stage_is_a_row_and_zero_at_first():
    embed, stages = StageEmbedding(3, D), torch.tensor([2, 0, 2])
    assert not embed(stages).any()
    nn.init.normal_(embed.weight)
    assert embed(stages).equal(embed.weight[stages])


def test_what_is_masked_is_exactly_zero_whatever_it_was():
    x = torch.randn(3, 2, 2)
    x[1, 0, 0], x[1, 1, 1] = torch.nan, torch.inf
    keep = torch.tensor([True, False, True])
    out = masked(x, keep)
    assert out[keep].equal(x[keep])
    assert not out[1].any()
    assert masked(x, None) is x
    vector, pair = x[:, 0, 0], masked((x, x[:, 0]), keep)
    assert masked(vector, keep).tolist() == [vector[0], 0, vector[2]]
    assert [part.shape for part in pair] == [x.shape, (3, 2)]
    assert pair[0].equal(out)


def test_conditions_add_up_level_by_level():
    a, b, c = torch.randn(3, 2, 4)
    assert add_conditions([a, b, c]).equal(a + b + c)
    levels = add_conditions([(a, a[:, :1]), (b, b[:, :1]), (c, c[:, :1])])
    assert levels[0].equal(a + b + c)
    assert levels[1].equal((a + b + c)[:, :1])
