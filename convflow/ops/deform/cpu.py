"""Deformable sampling on the CPU: numba kernels, one thread per map of one image and group.

Each map is first copied into a small scratch with a ring of zeros around it. The copy stays in
the second-level cache, makes the four corners of every tap lie inside without a test, and gives
each thread a gradient map of its own: no atomics, and the same bits on every run.

Non-finite numbers: a NaN or infinite offset is outside and adds nothing. A weight is not looked
at when its tap is outside. NaN and infinite values go where they are sampled.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from convflow.ops.deform import reference

# Not the full "fast": that would let the compiler assume that no coordinate is NaN.
_FASTMATH = {"reassoc", "contract", "nsz"}


def deform_sample(values: Tensor, offsets: Tensor, weights: Tensor, border: str) -> Tensor:
    """The kernel's twin of `reference.deform_sample`; float64 goes to the reference."""
    if offsets.dtype != torch.float32 or not _usable():
        return reference.deform_sample(values, offsets, weights, border)
    out = torch.zeros_like(values, dtype=torch.float32, memory_format=torch.contiguous_format)
    forward, _ = _kernels(values.shape[-1])
    _run(forward, (values, offsets, weights, out), border)
    return out.to(values.dtype)


def deform_sample_backward(
    grad: Tensor, values: Tensor, offsets: Tensor, weights: Tensor, border: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel's twin of `reference.deform_sample_backward`; float64 goes to the reference."""
    if offsets.dtype != torch.float32 or not _usable():
        return reference.deform_sample_backward(grad, values, offsets, weights, border)
    grad_values = torch.empty_like(
        values, dtype=torch.float32, memory_format=torch.contiguous_format
    )
    grad_offsets = torch.zeros_like(offsets, memory_format=torch.contiguous_format)
    grad_weights = torch.zeros_like(weights, memory_format=torch.contiguous_format)
    _, backward = _kernels(values.shape[-1])
    tensors = (grad, values, offsets, weights, grad_values, grad_offsets, grad_weights)
    _run(backward, tensors, border)
    return grad_values.to(values.dtype), grad_offsets, grad_weights


@cache
def find_numba() -> tuple[ModuleType | None, str]:
    """The numba module and its version, or None and why it cannot be imported."""
    try:
        import numba
    except (ImportError, OSError) as error:
        return None, f"numba cannot be imported: {error}"
    return numba, f"numba {numba.__version__}"


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


def _run(kernel: Callable[..., None], tensors: tuple[Tensor, ...], border: str) -> None:
    """Share the maps between as many threads as torch uses; the kernels release the GIL.

    Python threads rather than numba's own: they need no threading layer, can be entered from
    several threads at once, survive a fork, and leave numba's global settings alone.
    """
    arrays = [tensor.detach().to(torch.float32).contiguous().numpy() for tensor in tensors]
    batch, _, _, groups = tensors[0].shape[:4]
    threads, maps = torch.get_num_threads(), batch * groups
    size = max(1, maps // (4 * threads))
    pending = deque(range(0, maps, size))

    def work() -> None:
        while True:
            try:
                start = pending.popleft()
            except IndexError:
                return
            kernel(*arrays, border == "truncate", start, min(start + size, maps))

    helpers = [_pool(os.getpid(), threads).submit(work) for _ in range(threads - 1)]
    work()
    for helper in helpers:
        helper.result()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process: those of a parent do not survive a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="convflow-deform")


@cache
def _kernels(channels: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """Forward and backward for one number of channels; all other sizes vary freely."""
    import numba
    import numpy as np

    C = channels
    one, unit = np.uint64(1), np.float32(1)

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        options: dict[str, Any] = {"nogil": True, "fastmath": _FASTMATH, "error_model": "numpy"}
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no folder to keep the compiled code in
            return numba.njit(**options)(function)

    def forward(values, offsets, weights, out, truncate, start, stop):  # type: ignore[no-untyped-def]
        _, H, W, G, K = weights.shape
        width = W + 2
        rows = np.zeros(((H + 2) * width, C), np.float32)
        for task in range(start, stop):
            b, g = task // G, task % G
            for y in range(H):
                for x in range(W):
                    source, target = values[b, y, x, g], rows[(y + 1) * width + x + 1]
                    for c in range(C):
                        target[c] = source[c]
            for y in range(H):
                for x in range(W):
                    total = out[b, y, x, g]
                    for k in range(K):
                        px = np.float32(x) + offsets[b, y, x, g, k, 0]
                        py = np.float32(y) + offsets[b, y, x, g, k, 1]
                        if not (px > -2 and px < W and py > -2 and py < H):
                            continue
                        left, top = np.int64(px), np.int64(py)
                        if not truncate:
                            left, top = left - (px < left), top - (py < top)
                            if left < -1 or top < -1:
                                continue
                        fx, fy = px - np.float32(left), py - np.float32(top)
                        north = np.uint64((top + 1) * width + left + 1)
                        south = north + np.uint64(width)
                        weight = weights[b, y, x, g, k]
                        ne, se = weight * fx * (unit - fy), weight * fx * fy
                        nw, sw = weight * (unit - fy) - ne, weight * fy - se
                        row_nw, row_ne = rows[north], rows[north + one]
                        row_sw, row_se = rows[south], rows[south + one]
                        for c in range(C):
                            total[c] += (
                                nw * row_nw[c] + ne * row_ne[c] + sw * row_sw[c] + se * row_se[c]
                            )

    def backward(  # type: ignore[no-untyped-def]
        grad,
        values,
        offsets,
        weights,
        grad_values,
        grad_offsets,
        grad_weights,
        truncate,
        start,
        stop,
    ):
        _, H, W, G, K = weights.shape
        width = W + 2
        rows = np.zeros(((H + 2) * width, C), np.float32)
        sums = np.empty(((H + 2) * width, C), np.float32)
        for task in range(start, stop):
            b, g = task // G, task % G
            sums[:] = 0
            for y in range(H):
                for x in range(W):
                    source, target = values[b, y, x, g], rows[(y + 1) * width + x + 1]
                    for c in range(C):
                        target[c] = source[c]
            for y in range(H):
                for x in range(W):
                    upstream = grad[b, y, x, g]
                    for k in range(K):
                        px = np.float32(x) + offsets[b, y, x, g, k, 0]
                        py = np.float32(y) + offsets[b, y, x, g, k, 1]
                        if not (px > -2 and px < W and py > -2 and py < H):
                            continue
                        left, top = np.int64(px), np.int64(py)
                        if not truncate:
                            left, top = left - (px < left), top - (py < top)
                            if left < -1 or top < -1:
                                continue
                        fx, fy = px - np.float32(left), py - np.float32(top)
                        north = np.uint64((top + 1) * width + left + 1)
                        south = north + np.uint64(width)
                        weight = weights[b, y, x, g, k]
                        ne, se = weight * fx * (unit - fy), weight * fx * fy
                        nw, sw = weight * (unit - fy) - ne, weight * fy - se
                        row_nw, row_ne = rows[north], rows[north + one]
                        row_sw, row_se = rows[south], rows[south + one]
                        dot_nw = dot_ne = dot_sw = dot_se = np.float32(0)
                        for c in range(C):
                            dot_nw += upstream[c] * row_nw[c]
                            dot_ne += upstream[c] * row_ne[c]
                            dot_sw += upstream[c] * row_sw[c]
                            dot_se += upstream[c] * row_se[c]
                        sum_nw, sum_ne = sums[north], sums[north + one]
                        sum_sw, sum_se = sums[south], sums[south + one]
                        for c in range(C):
                            sum_nw[c] += nw * upstream[c]
                            sum_ne[c] += ne * upstream[c]
                            sum_sw[c] += sw * upstream[c]
                            sum_se[c] += se * upstream[c]
                        upper, lower = dot_ne - dot_nw, dot_se - dot_sw
                        west, east = dot_sw - dot_nw, dot_se - dot_ne
                        grad_offsets[b, y, x, g, k, 0] = weight * (upper + fy * (lower - upper))
                        grad_offsets[b, y, x, g, k, 1] = weight * (west + fx * (east - west))
                        upper, lower = dot_nw + fx * upper, dot_sw + fx * lower
                        grad_weights[b, y, x, g, k] = upper + fy * (lower - upper)
            for y in range(H):
                for x in range(W):
                    source, target = sums[(y + 1) * width + x + 1], grad_values[b, y, x, g]
                    for c in range(C):
                        target[c] = source[c]

    return compiled(forward), compiled(backward)
