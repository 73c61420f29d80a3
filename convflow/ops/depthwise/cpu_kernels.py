"""The gradients of depthwise convolution as a numba kernel over 16 channels of single images.

The map of these channels is first copied into a small scratch with zeros around it, in which all
neighbours lie inside and each vector in one line of the caches. Sums stay in registers: those of
`TILE` neighbouring positions, or of the weights of one row of the kernel.

Only `cpu.py` imports this file, because importing it imports numba.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import functools
from collections.abc import Callable

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils

from convflow.ops import vectors as v
from convflow.ops.vectors import LANES

TILE = 8
"""Positions whose sums are formed at once."""


@functools.cache
def backward_kernel(side: int) -> Callable[..., int]:
    """Kernel(grad, x, weight, grad_x, grad_weight, grad_bias, *scratch, worker, start, stop) for
    a side.

    It fills the last three arrays for some pieces, counted over images, then groups of `LANES`
    channels. `grad`, `x` and `grad_x` are (B, H, W, C); `weight`, turned by half a turn, is
    (groups, side * side, LANES); `grad_weight` is (B, groups, side * side, LANES) and `grad_bias`
    (B, groups * LANES). All are contiguous float32; gradients of no numbers are left alone.
    """
    K = side

    def backward(
        grad, x, weight, grad_x, grad_weight, grad_bias, maps, others, lines, worker, start, stop
    ):
        _, H, W, _ = x.shape
        groups = len(weight)
        wide = -(-W // TILE) * TILE + TILE + K
        grads, scratch, line = maps[worker], others[worker], lines[worker]
        for piece in range(start, stop):
            image, group = piece // groups, piece % groups
            _fill(grad, image, group, grads, wide, K)
            if grad_x.size:
                _filter(grads, wide, weight, line, grad_x, image, group, K)
            if grad_weight.size:
                _fill(x, image, group, scratch, wide, K)
                first = (K // 2 * wide + K // 2) * LANES
                _add(grads, first, H, W, wide, grad_bias, piece * LANES)
                for i in range(K):
                    to = (piece * K + i) * K * LANES
                    at = i * wide * LANES
                    _correlate(grads, first, scratch, at, H, W, wide, grad_weight, to, K)

    return v.compiled(backward, side)


def backward_scratch(workers: int, height: int, width: int, side: int) -> list[np.ndarray]:
    """Two blank maps with zeros around them and a line of sums, for each thread."""
    wide = -(-width // TILE) * TILE + TILE + side
    cells = (height + side) * wide
    return [v.blank(workers, count * LANES) for count in (cells, cells, TILE)]


@numba.njit(inline="always", **v.COMPILATION)
def _fill(x, image, group, scratch, wide, side):
    """Copy the channels of a group into the middle of a scratch."""
    _, H, W, C = x.shape
    first = group * LANES
    lanes = min(LANES, C - first)
    for y in range(H):
        at, to = (image * H + y) * W * C + first, ((y + side // 2) * wide + side // 2) * LANES
        for _ in range(W):
            if lanes == LANES:
                v.copy(x, at, scratch, to, LANES)
            else:
                v.copy_some(x, at, scratch, to, lanes)
            at, to = at + C, to + LANES


@numba.njit(inline="always", **v.COMPILATION)
def _filter(scratch, wide, weight, line, out, image, group, K):
    """Filter the map in a scratch into the channels of a group."""
    _, H, W, C = out.shape
    first = group * LANES
    lanes = min(LANES, C - first)
    for y in range(H):
        for left in range(0, W, TILE):
            at = (y * wide + left) * LANES
            _tile(scratch, at, wide, weight, group, line, K)
            to = ((image * H + y) * W + left) * C + first
            for x in range(min(TILE, W - left)):
                if lanes == LANES:
                    v.copy(line, x * LANES, out, to, LANES)
                else:
                    v.copy_some(line, x * LANES, out, to, lanes)
                to += C


@v.inlined
def _tile(b, scratch, at, wide, weight, group, line, K):
    """Sums of `TILE` neighbouring positions, from the north west corner of the first one's."""
    totals = _sums(b, TILE)
    with cgutils.for_range(b, v.index(K)) as loop:
        row = b.add(at, b.mul(loop.index, b.mul(wide, v.index(LANES))))
        tap = b.mul(b.add(b.mul(group, v.index(K)), loop.index), v.index(K * LANES))
        cells = [
            v.load(b, scratch, b.add(row, v.index(cell * LANES)), LANES)
            for cell in range(TILE + K - 1)
        ]
        found = [b.load(total) for total in totals]
        for j in range(K):
            factor = v.load(b, weight, b.add(tap, v.index(j * LANES)), LANES)
            found = [v.fma(b, factor, cells[x + j], one) for x, one in enumerate(found)]
        for one, total in zip(found, totals, strict=True):
            b.store(one, total)
    for x, total in enumerate(totals):
        v.store(b, b.load(total), line, v.index(x * LANES))


@v.inlined
def _correlate(b, grads, first, scratch, at, height, width, wide, out, to, K):
    """Sums over the map of an upstream gradient and K neighbouring cells: a row of weights."""
    step = -(-8 // K)  # more sums than one sum's latency takes
    sums = _sums(b, K * step)
    pitch = b.mul(wide, v.index(LANES))
    with cgutils.for_range(b, height) as rows:
        down = b.mul(rows.index, pitch)
        count = b.sdiv(b.add(width, v.index(step - 1)), v.index(step))
        with cgutils.for_range(b, count) as columns:
            right = b.add(down, b.mul(columns.index, v.index(step * LANES)))
            for x in range(step):
                place = b.add(right, v.index(x * LANES))
                slope = v.load(b, grads, b.add(first, place), LANES)
                for j in range(K):
                    cell = b.add(b.add(at, place), v.index(j * LANES))
                    one = sums[x * K + j]
                    value = v.load(b, scratch, cell, LANES)
                    b.store(v.fma(b, slope, value, b.load(one)), one)
    for j in range(K):
        found = functools.reduce(b.fadd, [b.load(sums[x * K + j]) for x in range(step)])
        v.store(b, found, out, b.add(to, v.index(j * LANES)))


@v.inlined
def _add(b, grads, first, height, width, wide, out, to):
    """The sum of an upstream gradient over the map."""
    (total,) = _sums(b, 1)
    with cgutils.for_range(b, height) as rows:
        down = b.add(first, b.mul(rows.index, b.mul(wide, v.index(LANES))))
        with cgutils.for_range(b, width) as columns:
            place = b.add(down, b.mul(columns.index, v.index(LANES)))
            b.store(b.fadd(b.load(total), v.load(b, grads, place, LANES)), total)
    v.store(b, b.load(total), out, to)


def _sums(b, count):
    """Places of vectors that are zero at first and then stay in registers."""
    found = [cgutils.alloca_once(b, ir.VectorType(v.FLOAT, LANES)) for _ in range(count)]
    for one in found:
        b.store(v.constant(0.0, LANES), one)
    return found
