"""The gradients of the numba kernel against torch's own."""

from __future__ import annotations

import pytest
import torch

from convflow.ops.depthwise import cpu, reference
from tests.tolerance import assert_close_rms


@pytest.mark.parametrize(
    "shape", [(2, 5, 7, 24), (1, 9, 3, 16), (2, 1, 1, 5), (2, 17, 16, 40), (1, 2, 33, 1)]
)
@pytest.mark.parametrize("side", [5, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_torch(shape, side, dtype):
    grad, x = (torch.randn(shape).to(dtype) for _ in range(2))
    weight = torch.randn(shape[-1], 1, side, side)
    found = cpu.depthwise_conv_backward(grad, x, weight)
    for one, truth in zip(found, reference.depthwise_conv_backward(grad, x, weight), strict=True):
        assert one.dtype == truth.dtype
        assert_close_rms(one, truth)


@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_what_is_not_wanted_has_no_numbers(wanted):
    grad, x, weight = torch.randn(2, 6, 5, 8), torch.randn(2, 6, 5, 8), torch.randn(8, 1, 5, 5)
    found = cpu.depthwise_conv_backward(grad, x, weight, *wanted)
    truths = reference.depthwise_conv_backward(grad, x, weight, *wanted)
    for one, truth in zip(found, truths, strict=True):
        assert_close_rms(one, truth) if truth.numel() else None
        assert one.shape == truth.shape


def test_same_bits_on_any_number_of_threads():
    grad, x, weight = torch.randn(2, 9, 8, 40), torch.randn(2, 9, 8, 40), torch.randn(40, 1, 7, 7)
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            runs.append(cpu.depthwise_conv_backward(grad, x, weight))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(map(torch.equal, run, runs[0]))
