"""The gate of the GPU's benchmarks passes right operators and refuses wrong ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.ops import truth
from convflow.ops import deform_sample
from convflow.ops.deform.op import msdcn_sample

SHAPE = (2, 16, 16, 2, 8)
DTYPES = [torch.float32, torch.bfloat16]


def scaled(factor: float) -> Callable[[Tensor], Tensor]:
    """The same tensor, whose gradient is wrong by a factor."""

    def wrong(tensor: Tensor) -> Tensor:
        tensor = tensor * 1
        tensor.register_hook(lambda grad: grad * factor)
        return tensor

    return wrong


SAMPLE_FAULTS: dict[str, Callable[..., Tensor]] = {
    "the gradient of the weights is doubled": lambda v, o, w: deform_sample(v, o, scaled(2)(w)),
    "taps lie a little too far right": lambda v, o, w: deform_sample(v, o + 1 / 64, w),
    "the border is another": lambda v, o, w: deform_sample(v, o, w, border="truncate"),
    "the last tap is left out": lambda v, o, w: deform_sample(v, o[..., :-1, :], w[..., :-1]),
    "the gradient of the offsets is off": lambda v, o, w: deform_sample(v, scaled(1.001)(o), w),
    "groups are swapped": lambda v, o, w: deform_sample(v.flip(3), o, w),
}
HEAD_FAULTS: dict[str, Callable[..., Tensor]] = {
    "the gradient of the prior is off": lambda m, p, r: msdcn_sample(m, scaled(1.001)(p), r),
    "the reach is another": lambda m, p, r: msdcn_sample(m, p, r * 1.01),
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_right_operators_pass(dtype: torch.dtype) -> None:
    grad, *inputs = truth.inputs_of(SHAPE, dtype, "cpu")
    truth.check_sample(deform_sample, grad, inputs)
    grad, *inputs = truth.draw_merged(SHAPE, dtype, "cpu")
    truth.check_heads(msdcn_sample, grad, inputs)


def test_an_offset_off_the_grid_would_refuse_a_right_operator() -> None:
    """15 - 1e-7 is 15 in float32 and lies in the cell before it in float64."""
    grad, values, bends, weights = truth.draw(SHAPE, torch.float32, "cpu")
    bends[0, 15, 15, 0, 4] = torch.tensor(-1e-7).bfloat16().float()
    with pytest.raises(AssertionError, match="rms error"):
        truth.check_sample(deform_sample, grad, (values, bends, weights))
    truth.check_sample(deform_sample, grad, (values, truth.on_grid(bends), weights))


def test_a_head_at_an_edge_would_refuse_a_right_operator() -> None:
    grad, merged, prior, reach = truth.draw_merged(SHAPE, torch.float32, "cpu")
    assert not truth.near_edges(merged, prior, reach).any()
    start = SHAPE[3] * SHAPE[4]
    # Tap 5 of the first group lies 1 + bend cells to the right: here one cell times its spacing.
    spacing = torch.sigmoid(prior[0] + merged[0, 15, 14, start + 36 + 5])
    bend = 1 / (spacing * reach[0, 0]) - 1
    steps = torch.arange(-40, 40) * 2.0**-24
    for step in steps:
        merged[0, 15, 14, start + 10] = bend + step
        if truth.near_edges(merged, prior, reach).any():
            try:
                truth.check_heads(msdcn_sample, grad, (merged, prior, reach))
            except AssertionError:
                return
    pytest.fail("no head at the edge of a cell was refused")


@pytest.mark.parametrize("fault", SAMPLE_FAULTS)
def test_wrong_samples_are_refused(fault: str) -> None:
    grad, *inputs = truth.inputs_of(SHAPE, torch.float32, "cpu")
    with pytest.raises(AssertionError):
        truth.check_sample(SAMPLE_FAULTS[fault], grad, inputs)


@pytest.mark.parametrize("fault", HEAD_FAULTS)
def test_wrong_heads_are_refused(fault: str) -> None:
    grad, *inputs = truth.draw_merged(SHAPE, torch.float32, "cpu")
    with pytest.raises(AssertionError):
        truth.check_heads(HEAD_FAULTS[fault], grad, inputs)
