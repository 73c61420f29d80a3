"""The truth about depthwise convolution: torch's own, forward and backward, on any device."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def depthwise_conv(
    x: Float[Tensor, "B H W C"], weight: Float[Tensor, "C 1 k k"], bias: Float[Tensor, " C"] | None
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
    want_x: bool = True,
    want_weight: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `depthwise_conv`.

    Args:
        grad: gradient of the result.
        x: as given to `depthwise_conv`.
        weight: as given to `depthwise_conv`.
        want_x: compute the gradient of x.
        want_weight: compute the gradients of weight and bias.

    Returns:
        The gradients of x, weight and a bias, each contiguous and in its tensor's dtype; of shape
        (0,) where it is not wanted.
    """
    grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        _turn(grad, weight),
        _turn(x, weight),
        weight,
        bias_sizes=[len(weight)],
        output_mask=[want_x, want_weight, want_weight],
        **_settings(weight),
    )
    grad_x = grad_x.permute(0, 2, 3, 1).to(x.dtype).contiguous() if want_x else x.new_empty(0)
    if not want_weight:
        return grad_x, weight.new_empty(0), weight.new_empty(0)
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
