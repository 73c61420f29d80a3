"""Halving, doubling and the U against torch's shuffles and a plain walk through the stages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from convflow.nn.resample import (
    Downsample,
    Hourglass,
    Join,
    LevelConditions,
    Upsample,
    mirror,
    shuffle_down,
    shuffle_up,
)
from convflow.types import InputError
from tests.tolerance import assert_close_rms


def first(x: torch.Tensor) -> torch.Tensor:
    """Channels first."""
    return x.permute(0, 3, 1, 2)


def last(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1)


@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4)
)
def test_shuffles_are_those_of_torch_and_undo_each_other(batch, rows, columns, channels, factor):
    x = torch.arange(float(batch * rows * columns * channels * factor**2))
    fine = x.view(batch, factor * rows, factor * columns, channels)
    coarse = shuffle_down(fine, factor)
    assert coarse.equal(last(F.pixel_unshuffle(first(fine), factor)))
    assert shuffle_up(coarse, factor).equal(last(F.pixel_shuffle(first(coarse), factor)))
    assert shuffle_up(coarse, factor).equal(fine)


def test_shuffles_are_by_two_if_not_said_otherwise():
    x = torch.randn(1, 2, 4, 8)
    assert shuffle_up(x).equal(shuffle_up(x, 2))
    assert shuffle_down(x).equal(shuffle_down(x, 2))


def test_halving_and_doubling_are_a_convolution_and_a_shuffle():
    x = torch.randn(2, 6, 10, 8, dtype=torch.float64)
    down, up = Downsample(8).double(), Upsample(8).double()
    halved = F.pixel_unshuffle(F.conv2d(first(x), down.conv.weight, padding=1), 2)
    doubled = F.pixel_shuffle(F.conv2d(first(x), up.conv.weight, padding=1), 2)
    assert halved.shape == (2, 16, 3, 5)
    assert doubled.shape == (2, 4, 12, 20)
    assert_close_rms(down(x), last(halved))
    assert_close_rms(up(x), last(doubled))
    for layer in (down, up):
        assert [name for name, _ in layer.named_parameters()] == ["conv.weight"]
        assert layer(x).is_contiguous()


def test_joining_adds_two_linear_maps():
    join, x, y = Join(4, 6), torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    nn.init.normal_(join.linear.bias)
    of_x, of_y = join.linear.weight.split(4, dim=1)
    assert_close_rms(join(x, y), x @ of_x.T + y @ of_y.T + join.linear.bias)


class Toy(nn.Module):
    """A block that one can follow: a linear map and the condition, added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x, c):
        return x + torch.tanh(self.linear(x)) + c[:, None, None]


@pytest.mark.parametrize("out_width", [4, 8])
@pytest.mark.parametrize("size", [(4, 4), (12, 8), (4, 20)])
def test_the_u_is_five_stages_and_two_skips(out_width, size):
    net = Hourglass(Toy, 4, [2, 1, 3, 1, 2], out_width).double()
    x = torch.randn(3, *size, 4, dtype=torch.float64)
    c = tuple(torch.randn(3, 4 * 2**k, dtype=torch.float64) for k in range(3))
    stages, (down1, down2), (up1, up2), (join1, join2) = net.stages, net.down, net.up, net.join
    assert [len(stage) for stage in stages] == [2, 1, 3, 1, 2]

    a = stages[0][1](stages[0][0](x, c[0]), c[0])
    b = stages[1][0](down1(a), c[1])
    m = down2(b)
    for block in stages[2]:
        m = block(m, c[2])
    d = stages[3][0](join1(up1(m), b), c[1])
    e = join2(up2(d), a)
    for block in stages[4]:
        e = block(e, c[0] if out_width == 4 else c[1])
    assert a.shape[1:] == (*size, 4)
    assert b.shape[1:] == (size[0] // 2, size[1] // 2, 8)
    assert m.shape[1:] == (size[0] // 4, size[1] // 4, 16)
    assert_close_rms(net(x, c), e)


@pytest.mark.parametrize(
    ("width", "depths"),
    [(4, [1] * 4), (4, [1] * 6), (4, []), (4, [1, 1, 0, 1, 1]), (5, [1] * 5), (0, [1] * 5)],
)
def test_an_impossible_u_is_refused(width, depths):
    with pytest.raises(InputError, match=r"even width and 5 depths .* got width"):
        Hourglass(Toy, width, depths, width)


def test_every_level_has_a_condition_of_its_own_for_the_same_labels():
    conditions = LevelConditions(5, (4, 8, 16))
    t, y = torch.tensor([0.1, 0.9]), torch.tensor([2, 5])
    out = conditions(t, y)
    assert [c.shape for c in out] == [(2, 4), (2, 8), (2, 16)]
    for k, c in enumerate(out):
        assert_close_rms(c, conditions.time[k](t) + conditions.label[k].weight[y])


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 2, 4]))
def test_a_mirrored_picture_is_numpys(height, width, multiple):
    x = torch.randn(2, 3, height, width)
    pad = [(0, 0), (0, 0), (0, -height % multiple), (0, -width % multiple)]
    expected = x.numpy()
    for axis, (_, missing) in enumerate(pad):
        if missing:
            one = [(0, missing) if i == axis else (0, 0) for i in range(4)]
            mode = "reflect" if x.shape[axis] > 1 else "edge"
            expected = np.pad(expected, one, mode)
    out = mirror(x, multiple)
    assert out.equal(torch.from_numpy(expected.copy()))
    assert out[:, :, :height, :width].equal(x)


def test_a_picture_that_fits_is_not_copied():
    x = torch.randn(1, 3, 8, 4)
    assert mirror(x, 4) is x
