"""Sizes and batches that fit a network, the nearest where they do not."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convflow.models.fitting import (
    check_batch,
    check_ratio,
    check_size,
    outputs_per_channel,
    read_size,
)
from convflow.types import InputError


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 16))
def test_the_nearest_size_works(height, width, multiple):
    if not (height % multiple or width % multiple):
        return check_size((height, width), multiple)
    with pytest.raises(InputError, match=rf"multiples of {multiple}, got {height}x") as caught:
        check_size((height, width), multiple)
    near = str(caught.value).split()[-1]
    sides = [int(side) for side in near.split("x")]
    for side, wanted in zip(sides, (height, width), strict=True):
        assert abs(side - wanted) <= max(multiple / 2, multiple - wanted)
    return check_size(tuple(sides), multiple)


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (-2, 4)])
def test_sizes_must_be_positive(size):
    with pytest.raises(InputError, match="the nearest that works is "):
        check_size(size, 2)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((5, 8, 8), "frames that 2 divides, got 5x8x8; the nearest that works is 4x8x8"),
        ((0, 8, 8), "the nearest that works is 2x8x8"),
        ((4, 8, 9), "multiples of 4, got 4x8x9; the nearest that works is 4x8x8"),
        ((4, 8, 2**17), "sides of at most 65536, got 4x8x131072"),
    ],
)
def test_sizes_of_videos(size, message):
    check_size((4, 8, 12), 4, 2)
    with pytest.raises(InputError, match=message):
        check_size(size, 4, 2)


def test_a_size_has_the_axes_of_the_usual_one():
    assert read_size(None, (16, 32, 32), 4) == (16, 32, 32)
    assert read_size(64, (16, 32, 32), 4) == (16, 64, 64)
    assert read_size([8, 12], (32, 32), 4) == (8, 12)
    with pytest.raises(InputError, match="frames, height and width such as 16x32x32, got 32x32"):
        read_size((32, 32), (16, 32, 32), 4)
    with pytest.raises(InputError, match="a size of height and width such as 32x32, got 2x32x32"):
        read_size((2, 32, 32), (32, 32), 4)


@pytest.mark.parametrize("video", [False, True])
def test_batches_have_the_axes_of_the_network(video):
    fitting, other = torch.zeros(2, 3, *[4] * (2 + video)), torch.zeros(2, 3, *[4] * (3 - video))
    check_batch(fitting, 3, video)
    for wrong in (other, fitting[:, :2]):
        with pytest.raises(InputError, match=r"expected (images|videos) of shape \(B, 3, "):
            check_batch(wrong, 3, video)


def test_ratios_have_channels_and_half_of_them_has_one_use():
    check_ratio(0.5, 8)
    with pytest.raises(InputError, match="mlp_ratio above 0"):
        check_ratio(0.1, 8)
    assert [outputs_per_channel(*flags) for flags in ((False, False), (True, False))] == [1, 2]
    with pytest.raises(InputError, match="discard_half or learned_variance, got both"):
        outputs_per_channel(True, True)
