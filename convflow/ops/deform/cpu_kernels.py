"""Deformable sampling as numba kernels over the maps of single images and groups.

Each map is first copied into a small scratch with a ring of zeros around it. The copy stays in
the second-level cache, lets the four corners of every tap lie inside without a test, and gives
each call a gradient map of its own: no atomics, and the same bits on every run.

Only `cpu.py` imports this file, because importing it imports numba.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np

# Not the full set: "nnan" would let the compiler assume that no coordinate is NaN.
_FASTMATH = {"reassoc", "contract", "nsz"}
# An integer beside a float32 makes a float64 in numba, so constants carry their type.
_ONE, _NEXT = np.float32(1), np.uint64(1)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    options: dict[str, Any] = {"nogil": True, "fastmath": _FASTMATH, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba finds no folder that it may write its cache to
        return numba.njit(**options)(function)


@_compiled
def _locate(offset, x, y, height, width, truncate):  # type: ignore[no-untyped-def]
    """Whether a tap touches the map, its north west row in the padded map, and its fractions."""
    at_x, at_y = np.float32(x) + offset[0], np.float32(y) + offset[1]
    left, top = np.floor(at_x), np.floor(at_y)
    if truncate:
        left, top = np.trunc(at_x), np.trunc(at_y)
    # One branch, not four: the processor guesses badly here. NaN compares false.
    touches = (
        (left >= -_ONE) & (left < np.float32(width)) & (top >= -_ONE) & (top < np.float32(height))
    )
    row = np.uint64((np.int64(top) + 1) * (width + 2) + np.int64(left) + 1) if touches else _NEXT
    return touches, row, at_x - left, at_y - top


@_compiled
def _shares(weight, fx, fy):  # type: ignore[no-untyped-def]
    """The weight's parts for the corners north west, north east, south west and south east."""
    north, south = weight * (_ONE - fy), weight * fy
    north_east, south_east = north * fx, south * fx
    return north - north_east, north_east, south - south_east, south_east


@cache
def forward_kernel(channels: int) -> Callable[..., None]:
    """Kernel(values, offsets, weights, out, truncate, start, stop) for this many channels.

    It fills `out` for the maps start .. stop - 1, counted over images, then groups. Sizes other
    than the channels vary freely. All arrays are contiguous float32 in the operator's shapes.
    """
    C = channels

    def forward(values, offsets, weights, out, truncate, start, stop):  # type: ignore[no-untyped-def]
        _, H, W, G, K = weights.shape
        rows = np.zeros(((H + 2) * (W + 2), C), np.float32)
        below = np.uint64(W + 2)
        for task in range(start, stop):
            b, g = task // G, task % G
            for y in range(H):
                for x in range(W):
                    rows[(y + 1) * (W + 2) + x + 1] = values[b, y, x, g]
            for y in range(H):
                for x in range(W):
                    total = out[b, y, x, g]
                    total[:] = 0
                    for k in range(K):
                        touches, row, fx, fy = _locate(offsets[b, y, x, g, k], x, y, H, W, truncate)
                        if not touches:
                            continue
                        nw, ne, sw, se = _shares(weights[b, y, x, g, k], fx, fy)
                        row_nw, row_ne = rows[row], rows[row + _NEXT]
                        row_sw, row_se = rows[row + below], rows[row + below + _NEXT]
                        for c in range(C):
                            total[c] += (
                                nw * row_nw[c] + ne * row_ne[c] + sw * row_sw[c] + se * row_se[c]
                            )

    return _compiled(forward)


@cache
def backward_kernel(channels: int) -> Callable[..., None]:
    """Kernel(grad, values, offsets, weights, grad_values, grad_offsets, grad_weights, truncate,
    start, stop) for this many channels.

    It fills the last three arrays for the maps start .. stop - 1; otherwise as `forward_kernel`.
    """
    C = channels

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
        rows = np.zeros(((H + 2) * (W + 2), C), np.float32)
        sums = np.empty_like(rows)
        below = np.uint64(W + 2)
        for task in range(start, stop):
            b, g = task // G, task % G
            sums[:] = 0
            for y in range(H):
                for x in range(W):
                    rows[(y + 1) * (W + 2) + x + 1] = values[b, y, x, g]
            for y in range(H):
                for x in range(W):
                    upstream = grad[b, y, x, g]
                    for k in range(K):
                        touches, row, fx, fy = _locate(offsets[b, y, x, g, k], x, y, H, W, truncate)
                        if not touches:
                            grad_offsets[b, y, x, g, k] = 0
                            grad_weights[b, y, x, g, k] = 0
                            continue
                        weight = weights[b, y, x, g, k]
                        nw, ne, sw, se = _shares(weight, fx, fy)
                        row_nw, row_ne = rows[row], rows[row + _NEXT]
                        row_sw, row_se = rows[row + below], rows[row + below + _NEXT]
                        dot_nw = dot_ne = dot_sw = dot_se = np.float32(0)
                        for c in range(C):
                            dot_nw += upstream[c] * row_nw[c]
                            dot_ne += upstream[c] * row_ne[c]
                            dot_sw += upstream[c] * row_sw[c]
                            dot_se += upstream[c] * row_se[c]
                        sum_nw, sum_ne = sums[row], sums[row + _NEXT]
                        sum_sw, sum_se = sums[row + below], sums[row + below + _NEXT]
                        for c in range(C):
                            sum_nw[c] += nw * upstream[c]
                            sum_ne[c] += ne * upstream[c]
                            sum_sw[c] += sw * upstream[c]
                            sum_se[c] += se * upstream[c]
                        north, south = dot_ne - dot_nw, dot_se - dot_sw
                        west, east = dot_sw - dot_nw, dot_se - dot_ne
                        grad_offsets[b, y, x, g, k, 0] = weight * (north + fy * (south - north))
                        grad_offsets[b, y, x, g, k, 1] = weight * (west + fx * (east - west))
                        north, south = dot_nw + fx * north, dot_sw + fx * south
                        grad_weights[b, y, x, g, k] = north + fy * (south - north)
            for y in range(H):
                for x in range(W):
                    grad_values[b, y, x, g] = sums[(y + 1) * (W + 2) + x + 1]

    return _compiled(backward)
