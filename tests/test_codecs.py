"""Pixels to [-1, 1] and back."""

from __future__ import annotations

import math

import pytest
import torch

from tests.cases import CODECS

LEVELS = torch.arange(256, dtype=torch.uint8).view(2, 2, 8, 8)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_all_levels_come_back(codec):
    assert codec.decode(codec.encode(LEVELS)).equal(LEVELS)


def test_pixels_fill_the_interval():
    x = CODECS["pixel"].encode(LEVELS).flatten()
    assert x.dtype == torch.float32
    assert (x[0], x[-1]) == (-1, 1)
    torch.testing.assert_close(x.diff(), torch.full((255,), 2 / 255), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_levels_survive_other_dtypes(dtype):
    codec = CODECS["pixel"]
    assert codec.decode(codec.encode(LEVELS).to(dtype)).equal(LEVELS)


@pytest.mark.parametrize(
    ("value", "level"),
    [
        (-1.5, 0),
        (1.5, 255),
        (1e38, 255),
        (-1e38, 0),
        (math.inf, 255),
        (-math.inf, 0),
        (math.nan, 0),
        (0.0, 128),  # 127.5, to even
        (0.49 / 127.5, 128),
        (-0.51 / 127.5, 127),
    ],
)
def test_values_are_clamped_and_rounded(value, level):
    out = CODECS["pixel"].decode(torch.full((1, 1, 1, 1), value))
    assert (out.item(), out.dtype) == (level, torch.uint8)
