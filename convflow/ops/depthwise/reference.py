"""The truth about depthwise convolution: torch's own, forward and backward, on any device."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def depthwise_conv(
    x: Float[Tensor, "B H W C"],
    weight: Float[Tensor, "C 1 k k"],
    bias: Float[Tensor, " C"] | None,
) -> Float[Tensor, "B H W C"]:
    """Each channel filtered by its own kernel; see `convflow.ops.depthwise_conv`.

    Args:
        x: features, any floating dtype.
        weight: one kernel for each channel, in the dtype that everything is computed in.
        bias: in the dtype of `weight`.

    Returns:
        The filtered features, contiguous, in the dtype of `x`.
    """
    out = torch.convolution(_turn(x, weight), weight, bias, **_settings(weight))
    return out.permute(0, 2, 3, 1).to(x.dtype).contiguous()


def depthwise_conv_backward(
    grad: Float[Tensor, "B H W C"],
    x: Float[Tensor, "B H W C"],
    weight: Float[Tensor, "C 1 k k"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `depthwise_conv`.

    `grad` is the gradient of the result; other arguments are those of `depthwise_conv`.

    Returns:
        The gradients of x, weight and a bias, each contiguous and in its tensor's dtype.
    """
    grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        _turn(grad, weight),
        _turn(x, weight),
        weight,
        bias_sizes=[len(weight)],
        output_mask=[True] * 3,
        **_settings(weight),
    )
    grad_x = grad_x.permute(0, 2, 3, 1).to(x.dtype).contiguous()
    return grad_x, grad_weight.contiguous(), grad_bias


def _turn(x: Tensor, weight: Tensor) -> Tensor:
    return x.to(weight.dtype).permute(0, 3, 1, 2)


def _settings(weight: Tensor) -> dict[str, Any]:
    """Those of `torch.convolution`, which autocast leaves alone as it does not `F.conv2d`."""
    return {
        "stride": [1, 1],
        "padding": [weight.shape[-1] // 2] * 2,
        "dilation": [1, 1],
        "transposed": False,
        "output_padding": [0, 0],
        "groups": len(weight),
    }
