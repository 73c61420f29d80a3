"""Deformable sampling on the CPU: runs the numba kernels on as many threads as torch uses.

Non-finite numbers: a NaN or infinite offset is outside and adds nothing. A weight is not looked
at when its tap is outside. NaN and infinite values go where they are sampled.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from convflow.ops.deform import reference
from convflow.ops.threads import Kernel, find_numba, share

_LIMIT = 2**32
"""Kernels count the cells of a map in 32 bits."""


def deform_sample(values: Tensor, offsets: Tensor, weights: Tensor, border: str) -> Tensor:
    """The kernel's twin of `reference.deform_sample`; float64 goes to the reference."""
    if not _serves(values, offsets):
        return reference.deform_sample(values, offsets, weights, border)
    from convflow.ops.deform.cpu_kernels import forward_kernel, forward_scratch

    out = torch.empty_like(values, dtype=torch.float32, memory_format=torch.contiguous_format)
    taps = weights.shape[-1]
    kernel = forward_kernel(values.shape[-1], taps)
    _run(kernel, forward_scratch, (values, offsets, weights, out), border, taps)
    return out.to(values.dtype)


def deform_sample_backward(
    grad: Tensor,
    values: Tensor,
    offsets: Tensor,
    weights: Tensor,
    border: str,
    want_values: bool = True,
    want_taps: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel's twin of `reference.deform_sample_backward`; float64 goes to the reference.

    The kernel computes all three gradients in one pass, whichever of them are wanted.
    """
    if not _serves(values, offsets):
        return reference.deform_sample_backward(
            grad, values, offsets, weights, border, want_values, want_taps
        )
    from convflow.ops.deform.cpu_kernels import backward_kernel, backward_scratch

    # Left for the kernel to fill: PyTorch's threads would clear them and then spin for a while.
    grads = [
        torch.empty_like(tensor, dtype=torch.float32, memory_format=torch.contiguous_format)
        for tensor in (values, offsets, weights)
    ]
    taps = weights.shape[-1]
    kernel = backward_kernel(values.shape[-1], taps)
    _run(kernel, backward_scratch, (grad, values, offsets, weights, *grads), border, taps)
    found = grads[0].to(values.dtype), grads[1], grads[2]
    return reference.pick(found, want_values, want_taps)


def deform_sample_tangent(*given: Any) -> Tensor:
    """The kernel's twin of `reference.deform_sample_tangent`; float64 goes to the reference.

    Args:
        *given: its arguments in its order.
    """
    *tensors, border = given
    values, offsets, weights, *_ = tensors
    if not _serves(values, offsets):
        return reference.deform_sample_tangent(*given)
    from convflow.ops.deform.cpu_kernels import backward_scratch, tangent_kernel

    out = torch.empty_like(values, dtype=torch.float32, memory_format=torch.contiguous_format)
    taps = weights.shape[-1]
    kernel = tangent_kernel(values.shape[-1], taps)
    _run(kernel, backward_scratch, (*tensors, out), border, taps)
    return out.to(values.dtype)


def _serves(values: Tensor, offsets: Tensor) -> bool:
    """True if the kernels can do it: not float64, something to do, and cells they can count."""
    cells = (offsets.shape[1] + 4) * (offsets.shape[2] + 2)  # of a map and what is around it
    counted = offsets.numel() and values.numel() and cells < _LIMIT
    return offsets.dtype == torch.float32 and bool(counted) and _usable()


@cache
def _usable() -> bool:
    numba, reason = find_numba()
    if numba is None:
        warnings.warn(
            f"deform_sample runs its slow reference on the CPU, because {reason}. "
            "Install it with `pip install numba`.",
            RuntimeWarning,
            stacklevel=2,
        )
    return numba is not None


def _run(
    kernel: Kernel,
    scratch: Callable[..., list[Any]],
    tensors: tuple[Tensor, ...],
    border: str,
    taps: int,
) -> None:
    """Share the maps between as many threads as torch uses."""
    arrays = [tensor.detach().to(torch.float32).contiguous().numpy() for tensor in tensors]
    batch, height, width, groups, channels = tensors[0].shape
    own = partial(scratch, height=height, width=width, channels=channels, taps=taps)
    share(kernel, (*arrays, border == "truncate"), batch * groups, own)
