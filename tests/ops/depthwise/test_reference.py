"""The twin of the kernels against torch's layer and against differences."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from convflow.ops.depthwise import reference
from tests.tolerance import assert_close_rms


@pytest.mark.parametrize("side", [1, 3, 7])
@pytest.mark.parametrize("has_bias", [False, True])
def test_is_torchs_convolution_and_its_gradients(side: int, has_bias: bool) -> None:
    x, grad = (torch.randn(2, 3, 5, 4, dtype=torch.float64) for _ in range(2))
    weight = torch.randn(4, 1, side, side, dtype=torch.float64)
    bias = torch.randn(4, dtype=torch.float64)
    leaves = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    last = bias if has_bias else None
    truth = F.conv2d(x.permute(0, 3, 1, 2), weight, last, padding=side // 2, groups=4)
    truth = truth.permute(0, 2, 3, 1)
    out = reference.depthwise_conv(x, weight, last)
    assert out.is_contiguous()
    assert_close_rms(out, truth)
    expected = torch.autograd.grad((truth + 0 * bias).flatten(), leaves, grad.flatten())
    actual = reference.depthwise_conv_backward(grad, x, weight)
    for one, other in zip(actual[: 2 + has_bias], expected, strict=False):
        assert one.is_contiguous()
        assert_close_rms(one, other)


def test_gradgradcheck() -> None:
    leaves = [torch.randn(1, 3, 2, 2), torch.randn(2, 1, 3, 3), torch.randn(2)]
    leaves = [leaf.double().requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(reference.depthwise_conv, leaves)
    assert torch.autograd.gradgradcheck(reference.depthwise_conv, leaves)


def test_autocast_changes_nothing() -> None:
    x, weight, bias = torch.randn(1, 4, 4, 8), torch.randn(8, 1, 3, 3), torch.randn(8)
    expected = reference.depthwise_conv(x, weight, bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(reference.depthwise_conv(x, weight, bias), expected)
