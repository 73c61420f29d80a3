"""Gradients of depthwise convolution on the CPU: a numba kernel on as many threads as torch uses.

oneDNN's, which torch calls, are slow for kernels of 5x5 and more; its forward pass is not.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from convflow.ops.depthwise import reference
from convflow.ops.threads import find_numba, share

LEAST_SIDE = 5
"""The smallest kernel of which these gradients are faster than torch's."""


def depthwise_conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, want_x: bool = True, want_weight: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel's twin of `reference.depthwise_conv_backward`, which serves what it does not."""
    channels, _, side, _ = weight.shape
    fits = weight.dtype == torch.float32 and side >= LEAST_SIDE and x.numel()
    if not fits or find_numba()[0] is None:
        return reference.depthwise_conv_backward(grad, x, weight, want_x, want_weight)
    from convflow.ops.depthwise.cpu_kernels import LANES, backward_kernel, backward_scratch

    flat = F.pad(weight.flip(2, 3).flatten(1), (0, 0, 0, -channels % LANES))
    packed = flat.unflatten(0, (-1, LANES)).transpose(1, 2).contiguous()
    grad_x = torch.empty(x.shape if want_x else (0,) * 4)
    of_weight = torch.empty(x.shape[0] if want_weight else 0, *packed.shape)
    of_bias = torch.empty(len(of_weight), len(packed) * LANES)
    given = grad.float(), x.float(), packed, grad_x, of_weight, of_bias
    arrays = [one.detach().numpy() for one in given]
    batch, height, width, _ = x.shape
    scratch = partial(backward_scratch, height=height, width=width, side=side)
    share(backward_kernel(side), arrays, batch * len(packed), scratch)
    grad_x = grad_x.to(x.dtype) if want_x else x.new_empty(0)
    if not want_weight:
        return grad_x, weight.new_empty(0), weight.new_empty(0)
    found = of_weight.sum(0).transpose(1, 2).reshape(-1, 1, side, side)[:channels]
    return grad_x, found.contiguous(), of_bias.sum(0)[:channels].clone()
