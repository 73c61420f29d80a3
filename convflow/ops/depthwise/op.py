"""`depthwise_conv`: the operator, its registration and its gradients.

Forward and backward are one registered operator each; torch's own convolution serves what has no
kernel of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from convflow.ops.depthwise import cpu, gpu, reference
from convflow.ops.inputs import check_operands, is_transformed
from convflow.ops.register import register
from convflow.ops.threads import find_numba
from convflow.types import InputError

MOST_SIDE = 9
"""The largest side of a kernel."""


def depthwise_conv(
    x: Float[Tensor, "B H W C"],
    weight: Float[Tensor, "C 1 k k"],
    bias: Float[Tensor, " C"] | None = None,
) -> Float[Tensor, "B H W C"]:
    """Filter each channel by its own kernel, on features with channels last.

    out[y, x, c] = bias[c] + sum over i, j of weight[c, 0, i, j] * x[y + i - k//2, x + j - k//2, c],
    zero outside: `F.conv2d` with a stride of 1, a padding of k//2 and as many groups as channels.

    Args:
        x: features, any floating dtype.
        weight: one k x k kernel for each channel, as `nn.Conv2d` has it; k odd and at most 9.
        bias: added to each channel.

    Returns:
        The filtered features, contiguous, in the dtype of `x`. Weights and sums are float32
        whatever that dtype is, under autocast too; float64 features are computed in float64.

    Raises:
        InputError: if ranks, sizes, dtypes or devices do not fit together.

    Examples:
        >>> depthwise_conv(torch.randn(2, 16, 16, 64), torch.randn(64, 1, 7, 7)).shape
        torch.Size([2, 16, 16, 64])

    Reverse mode differentiates once. Inside `torch.func` transforms and `torch.export` torch's own
    convolution runs.
    """
    _check(x, weight, bias)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    x, weight = x.contiguous(), weight.to(dtype).contiguous()
    bias = None if bias is None else bias.to(dtype).contiguous()
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if torch.compiler.is_exporting() or is_transformed(*tensors):
        return reference.depthwise_conv(x, weight, bias)
    return _conv(x, weight, bias)


def gains(x: Tensor, weight: Tensor) -> bool:
    """True if gradients are wanted and this operator's are faster here than torch's."""
    wanted = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    large = wanted and weight.shape[-1] >= cpu.LEAST_SIDE
    return large and x.device.type == "cpu" and find_numba()[0] is not None


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if x.ndim != 4:
        raise InputError(
            f"x: expected 4 dimensions (B, H, W, C), got {tuple(x.shape)}; channels come last"
        )
    channels, side = x.shape[3], weight.shape[-1] if weight.ndim else 0
    if side % 2 == 0 or side > MOST_SIDE or tuple(weight.shape) != (channels, 1, side, side):
        raise InputError(
            f"weight: expected shape ({channels}, 1, k, k) with an odd k of at most {MOST_SIDE} to "
            f"fit x {tuple(x.shape)}, got {tuple(weight.shape)}; give each channel one kernel"
        )
    if bias is not None and tuple(bias.shape) != (channels,):
        raise InputError(
            f"bias: expected shape ({channels},) to fit x {tuple(x.shape)}, got "
            f"{tuple(bias.shape)}; give one number for each channel"
        )
    check_operands(x=x, weight=weight, **({} if bias is None else {"bias": bias}))


def _fake(x: Tensor, *others: Any) -> Tensor:
    return x.new_empty(x.shape)


def _fake_backward(
    grad: Tensor, x: Tensor, weight: Tensor, want_x: bool = True, want_weight: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape if want_x else 0),
        weight.new_empty(weight.shape if want_weight else 0),
        weight.new_empty(len(weight) if want_weight else 0),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad
    flags = wanted[0], wanted[1] or wanted[2]
    found = _conv_backward(grad.contiguous(), *ctx.saved_tensors, *flags)
    return tuple(one if want else None for one, want in zip(found, wanted, strict=True))


def _refuse(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "depthwise_conv: expected to be differentiated once, got a second backward through it; use "
        "convflow.ops.depthwise.reference.depthwise_conv, which differentiates any number of times"
    )


_conv_backward = register(
    "depthwise_conv_backward",
    "(Tensor grad, Tensor x, Tensor weight, bool want_x=True, bool want_weight=True)"
    " -> (Tensor, Tensor, Tensor)",
    reference.depthwise_conv_backward,
    {"cpu": cpu.depthwise_conv_backward, "cuda": gpu.depthwise_conv_backward},
    _fake_backward,
    _refuse,
)
_conv = register(
    "depthwise_conv",
    "(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
    reference.depthwise_conv,
    {"cuda": gpu.depthwise_conv},
    _fake,
    _differentiate,
    _save,
)
