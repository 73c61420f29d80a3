"""Deformable sampling as numba kernels over the maps of single images and groups.

Each map is first copied into a small scratch with a ring of zeros around it. The copy stays in
the second-level cache, lets the four corners of every tap lie inside without a test, and gives
each call a gradient map of its own: no atomics, and the same bits on every run.

The innermost steps are written for LLVM as vectors, because numba has none and makes of plain
loops sums that live in memory and taps that are located one by one.

Only `cpu.py` imports this file, because importing it imports numba. They stay in one file, because
numba's cache on disk notices changes only in the file of the kernel itself; numbers of channels and
taps, which a kernel closes over, are part of its key there.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from convflow.ops import vectors as v


@functools.cache
def forward_kernel(channels: int, num_taps: int) -> Callable[..., int]:
    """Kernel(values, offsets, weights, out, truncate, rows, places, shares, worker, start, stop)
    for so many channels and taps.

    It fills `out` for the maps start .. stop - 1, counted over images, then groups. Other sizes
    vary freely. All arrays are contiguous float32 in the operator's shapes. `forward_scratch` makes
    the next three.
    """
    C, K, PITCH = channels, num_taps, v.pitch(channels)

    def forward(
        values, offsets, weights, out, truncate, all_rows, all_places, all_shares, worker, start,
        stop,
    ):  # fmt: skip
        _, H, W, G, _ = weights.shape
        rows, places, shares = all_rows[worker], all_places[worker], all_shares[worker]
        for task in range(start, stop):
            first = task // G * (H * W * G) + task % G
            for y in range(H):
                for x in range(W):
                    to = ((y + 1) * (W + 2) + x + 1) * PITCH
                    v.copy(values, (first + (y * W + x) * G) * C, rows, to, C)
            for y in range(H):
                at = first + y * W * G
                for x in range(W):
                    _locate(offsets, weights, at + x * G, x, y, H, W, truncate, places, shares, K)
                for x in range(W):
                    _gather(rows, places, shares, x, W + 2, out, at + x * G, C, K, PITCH)

    return v.compiled(forward, channels, num_taps)


@functools.cache
def backward_kernel(channels: int, num_taps: int) -> Callable[..., int]:
    """Kernel(grad, values, offsets, weights, grad_values, grad_offsets, grad_weights, truncate,
    rows, places, shares, sums, dots, worker, start, stop) for so many channels and taps.

    It fills the last three arrays for the maps start .. stop - 1; otherwise as `forward_kernel`.
    """
    C, K, PITCH = channels, num_taps, v.pitch(channels)

    def backward(
        grad,
        values,
        offsets,
        weights,
        grad_values,
        grad_offsets,
        grad_weights,
        truncate,
        all_rows,
        all_places,
        all_shares,
        all_sums,
        all_dots,
        worker,
        start,
        stop,
    ):
        _, H, W, G, _ = weights.shape
        rows, places, shares = all_rows[worker], all_places[worker], all_shares[worker]
        sums, dots = all_sums[worker], all_dots[worker]
        for task in range(start, stop):
            first = task // G * (H * W * G) + task % G
            v.clear(sums, 0, len(sums))
            for y in range(H):
                for x in range(W):
                    to = ((y + 1) * (W + 2) + x + 1) * PITCH
                    v.copy(values, (first + (y * W + x) * G) * C, rows, to, C)
            for y in range(H):
                at = first + y * W * G
                for x in range(W):
                    _locate(offsets, weights, at + x * G, x, y, H, W, truncate, places, shares, K)
                for x in range(W):
                    _scatter(
                        grad, at + x * G, rows, sums, places, shares, dots, x, W + 2, C, K, PITCH
                    )
                for x in range(W):
                    _finish(
                        offsets, weights, at + x * G, x, y, H, W, truncate, dots, grad_offsets,
                        grad_weights, K,
                    )  # fmt: skip
            for y in range(H):
                for x in range(W):
                    cell = ((y + 1) * (W + 2) + x + 1) * PITCH
                    v.copy(sums, cell, grad_values, (first + (y * W + x) * G) * C, C)

    return v.compiled(backward, channels, num_taps)


@functools.cache
def tangent_kernel(channels: int, num_taps: int) -> Callable[..., int]:
    """Kernel(values, offsets, weights, their tangents, out, truncate, rows, places, shares, moved,
    slopes, worker, start, stop) for so many channels and taps.

    It fills `out` with the tangent of `forward_kernel`'s for the maps start .. stop - 1.
    `backward_scratch` makes the five arrays after `truncate`.
    """
    C, K, PITCH = channels, num_taps, v.pitch(channels)

    def tangent(
        values,
        offsets,
        weights,
        values_tangent,
        offsets_tangent,
        weights_tangent,
        out,
        truncate,
        all_rows,
        all_places,
        all_shares,
        all_moved,
        all_slopes,
        worker,
        start,
        stop,
    ):
        _, H, W, G, _ = weights.shape
        rows, places, shares = all_rows[worker], all_places[worker], all_shares[worker]
        moved, slopes = all_moved[worker], all_slopes[worker]
        for task in range(start, stop):
            first = task // G * (H * W * G) + task % G
            for y in range(H):
                for x in range(W):
                    to = ((y + 1) * (W + 2) + x + 1) * PITCH
                    v.copy(values, (first + (y * W + x) * G) * C, rows, to, C)
                    v.copy(values_tangent, (first + (y * W + x) * G) * C, moved, to, C)
            for y in range(H):
                at = first + y * W * G
                for x in range(W):
                    _locate(offsets, weights, at + x * G, x, y, H, W, truncate, places, shares, K)
                    _slant(
                        offsets, weights, offsets_tangent, weights_tangent, at + x * G, x, y, H, W,
                        truncate, slopes, K,
                    )  # fmt: skip
                for x in range(W):
                    _follow(
                        rows, moved, places, shares, slopes, x, W + 2, out, at + x * G, C, K, PITCH
                    )

    return v.compiled(tangent, channels, num_taps)


def forward_scratch(
    workers: int, height: int, width: int, channels: int, taps: int
) -> list[np.ndarray]:
    """Blank maps, then places and shares of the taps of a row of positions, one for each thread.

    A map has a ring of one cell and below it another row, for taps that touch nothing.
    """
    rows = v.blank(workers, (height + 4) * (width + 2) * v.pitch(channels))
    places = np.empty((workers, width * taps), np.int32)
    return [rows, places, np.empty((workers, 4 * width * taps), np.float32)]


def backward_scratch(
    workers: int, height: int, width: int, channels: int, taps: int
) -> list[np.ndarray]:
    """As `forward_scratch`, then further blank maps, and numbers for each corner of a tap."""
    rows, places, shares = forward_scratch(workers, height, width, channels, taps)
    return [rows, places, shares, v.blank(workers, rows.shape[1]), np.empty_like(shares)]


@v.inlined
def _locate(b, offsets, weights, at, x, y, height, width, truncate, places, shares, K):
    """North west cells of the K taps of a position, and their weights' parts for the corners."""
    tap = _read_taps(b, offsets, weights, at, x, y, height, width, truncate, K)
    zero, one = v.constant(0.0, K), ir.Constant(ir.VectorType(v.INT, K), [1] * K)
    south = b.fmul(tap.weight, tap.fy)
    north = b.fsub(tap.weight, south)
    south_east, north_east = b.fmul(south, tap.fx), b.fmul(north, tap.fx)
    corners = b.fsub(north, north_east), north_east, b.fsub(south, south_east), south_east
    row = b.mul(x, v.index(4 * K))
    for number, share in enumerate(corners):
        v.store(b, b.select(tap.touches, share, zero), shares, b.add(row, v.index(number * K)))
    # An infinite weight less a part of it is NaN, where its product with a share may be infinite.
    nan = b.or_(b.fcmp_unordered("uno", *corners[:2]), b.fcmp_unordered("uno", *corners[2:]))
    odd = b.and_(tap.touches, nan)
    with cgutils.if_unlikely(b, v.any_of(b, odd)):
        for number, (share, part) in enumerate(zip(corners, _parts(b, tap, K), strict=True)):
            exact = b.select(odd, b.fmul(tap.weight, part), share)
            v.store(b, b.select(tap.touches, exact, zero), shares, b.add(row, v.index(number * K)))
    # A tap that touches nothing is put below the map, where nothing is written.
    below = v.spread(b, b.sitofp(b.add(height, v.index(1)), v.FLOAT), K)
    left = b.fptosi(b.select(tap.touches, tap.left, v.constant(-1.0, K)), one.type)
    top = b.fptosi(b.select(tap.touches, tap.top, below), one.type)
    wide = v.spread(b, b.trunc(b.add(width, v.index(2)), v.INT), K)
    place = b.add(b.mul(b.add(top, one), wide), b.add(left, one))
    v.store(b, place, places, b.mul(x, v.index(K)))


@v.inlined
def _gather(b, rows, places, shares, x, wide, out, at, C, K, PITCH):
    """The sum of the K taps of position `x` of a row; all C sums stay in registers."""
    pieces = v.pieces(C)
    totals = [cgutils.alloca_once(b, ir.VectorType(v.FLOAT, lanes)) for _, lanes in pieces]
    for (_, lanes), total in zip(pieces, totals, strict=True):
        b.store(v.constant(0.0, lanes), total)
    with cgutils.for_range(b, v.index(K)) as loop:
        corners = _corners(b, places, shares, x, loop.index, wide, K, PITCH)
        for (start, lanes), total in zip(pieces, totals, strict=True):
            found = b.load(total)
            for cell, share, _ in corners:
                value = v.load(b, rows, b.add(cell, v.index(start)), lanes)
                found = v.fma(b, v.spread(b, share, lanes), value, found)
            b.store(found, total)
    for (start, _), total in zip(pieces, totals, strict=True):
        v.store(b, b.load(total), out, b.add(b.mul(at, v.index(C)), v.index(start)))


@v.inlined
def _slant(
    b, offsets, weights, offsets_tangent, weights_tangent, at, x, y, height, width, truncate,
    slopes, K,
):  # fmt: skip
    """Tangents of what `_locate` stores as the parts of the K taps of a position."""
    tap = _read_taps(b, offsets, weights, at, x, y, height, width, truncate, K)
    first = b.mul(at, v.index(K))
    both = v.load(b, offsets_tangent, b.mul(first, v.index(2)), 2 * K)
    along_x, along_y = (v.shuffle(b, both, both, range(axis, 2 * K, 2)) for axis in range(2))
    west, north = b.fsub(v.constant(1.0, K), tap.fx), b.fsub(v.constant(1.0, K), tap.fy)
    zero, change = v.constant(0.0, K), v.load(b, weights_tangent, first, K)
    turned = (
        b.fsub(zero, b.fadd(b.fmul(north, along_x), b.fmul(west, along_y))),
        b.fsub(b.fmul(north, along_x), b.fmul(tap.fx, along_y)),
        b.fsub(b.fmul(west, along_y), b.fmul(tap.fy, along_x)),
        b.fadd(b.fmul(tap.fy, along_x), b.fmul(tap.fx, along_y)),
    )
    row = b.mul(x, v.index(4 * K))
    for number, (part, turn) in enumerate(zip(_parts(b, tap, K), turned, strict=True)):
        slope = v.fma(b, change, part, b.fmul(tap.weight, turn))
        place = b.add(row, v.index(number * K))
        v.store(b, b.select(tap.touches, slope, zero), slopes, place)


@v.inlined
def _follow(b, rows, moved, places, shares, slopes, x, wide, out, at, C, K, PITCH):
    """The tangent of the sum of the K taps of a position, as `_gather` forms the sum."""
    pieces = v.pieces(C)
    totals = [cgutils.alloca_once(b, ir.VectorType(v.FLOAT, lanes)) for _, lanes in pieces]
    for (_, lanes), total in zip(pieces, totals, strict=True):
        b.store(v.constant(0.0, lanes), total)
    with cgutils.for_range(b, v.index(K)) as loop:
        corners = _corners(b, places, shares, x, loop.index, wide, K, PITCH)
        turned = [b.load(b.gep(slopes, [entry])) for _, _, entry in corners]
        for (start, lanes), total in zip(pieces, totals, strict=True):
            found = b.load(total)
            for (cell, share, _), slope in zip(corners, turned, strict=True):
                place = b.add(cell, v.index(start))
                value, change = v.load(b, rows, place, lanes), v.load(b, moved, place, lanes)
                found = v.fma(b, v.spread(b, slope, lanes), value, found)
                found = v.fma(b, v.spread(b, share, lanes), change, found)
            b.store(found, total)
    for (start, _), total in zip(pieces, totals, strict=True):
        v.store(b, b.load(total), out, b.add(b.mul(at, v.index(C)), v.index(start)))


@v.inlined
def _scatter(b, grad, at, rows, sums, places, shares, dots, x, wide, C, K, PITCH):
    """Add the upstream gradient of a position to `sums`; its products with the corners: `dots`."""
    first = b.mul(at, v.index(C))
    upstream = [v.load(b, grad, b.add(first, v.index(s)), lanes) for s, lanes in v.pieces(C)]
    with cgutils.for_range(b, v.index(K)) as loop:
        for cell, share, entry in _corners(b, places, shares, x, loop.index, wide, K, PITCH):
            totals = dict[int, Any]()
            for (start, lanes), part in zip(v.pieces(C), upstream, strict=True):
                place = b.add(cell, v.index(start))
                total = totals.get(lanes, v.constant(0.0, lanes))
                totals[lanes] = v.fma(b, part, v.load(b, rows, place, lanes), total)
                old = v.load(b, sums, place, lanes)
                v.store(b, v.fma(b, v.spread(b, share, lanes), part, old), sums, place)
            dot = ir.Constant(v.FLOAT, 0.0)
            for total in totals.values():
                dot = v.total(b, dot, total)
            b.store(dot, b.gep(dots, [entry]))


@v.inlined
def _finish(
    b, offsets, weights, at, x, y, height, width, truncate, dots, grad_offsets, grad_weights, K
):
    """Gradients of the K taps of a position from its `dots`."""
    tap = _read_taps(b, offsets, weights, at, x, y, height, width, truncate, K)
    row, zero = b.mul(x, v.index(4 * K)), v.constant(0.0, K)
    nw, ne, sw, se = (v.load(b, dots, b.add(row, v.index(i * K)), K) for i in range(4))

    def between(one: Any, other: Any, fraction: Any) -> Any:
        return v.fma(b, fraction, b.fsub(other, one), one)

    slope_x = b.fmul(tap.weight, between(b.fsub(ne, nw), b.fsub(se, sw), tap.fy))
    slope_y = b.fmul(tap.weight, between(b.fsub(sw, nw), b.fsub(se, ne), tap.fx))
    sample = between(between(nw, ne, tap.fx), between(sw, se, tap.fx), tap.fy)

    def store(*found: Any) -> None:
        of_x, of_y, of_weight = (b.select(tap.touches, number, zero) for number in found)
        first = b.mul(at, v.index(K))
        both = v.shuffle(b, of_x, of_y, [k + K * axis for k in range(K) for axis in range(2)])
        v.store(b, both, grad_offsets, b.mul(first, v.index(2)))
        v.store(b, of_weight, grad_weights, first)

    store(slope_x, slope_y, sample)
    # A difference of infinities is NaN, where the sum of their parts may be infinite.
    nan = b.or_(b.fcmp_unordered("uno", slope_x, slope_y), b.fcmp_unordered("uno", sample, sample))
    odd = b.and_(tap.touches, nan)
    with cgutils.if_unlikely(b, v.any_of(b, odd)):
        dotted = (nw, ne, sw, se)
        terms = [b.fmul(p, dot) for p, dot in zip(_parts(b, tap, K), dotted, strict=True)]
        far_x, far_y = b.fsub(v.constant(1.0, K), tap.fx), b.fsub(v.constant(1.0, K), tap.fy)
        of_x = b.fadd(b.fmul(far_y, b.fsub(ne, nw)), b.fmul(tap.fy, b.fsub(se, sw)))
        of_y = b.fadd(b.fmul(far_x, b.fsub(sw, nw)), b.fmul(tap.fx, b.fsub(se, ne)))
        exact = b.fmul(tap.weight, of_x), b.fmul(tap.weight, of_y), functools.reduce(b.fadd, terms)
        found = zip(exact, (slope_x, slope_y, sample), strict=True)
        store(*(b.select(odd, new, old) for new, old in found))


class _Taps(NamedTuple):
    """Of the taps of one position, a lane each: weight, north west cell and fractions of a cell."""

    weight: ir.Value
    left: ir.Value
    top: ir.Value
    fx: ir.Value
    fy: ir.Value
    touches: ir.Value


def _read_taps(b, offsets, weights, at, x, y, height, width, truncate, K):
    first = b.mul(at, v.index(K))
    both = v.load(b, offsets, b.mul(first, v.index(2)), 2 * K)

    def place(axis: int, origin: Any, size: Any) -> tuple[Any, Any, Any]:
        offset = v.shuffle(b, both, both, range(axis, 2 * K, 2))
        found = b.fadd(v.spread(b, b.sitofp(origin, v.FLOAT), K), offset)
        whole = b.select(truncate, v.rounded(b, "trunc", found), v.rounded(b, "floor", found))
        # NaN compares false, so it is outside as well.
        begun = b.fcmp_ordered(">=", whole, v.constant(-1.0, K))
        ended = b.fcmp_ordered("<", whole, v.spread(b, b.sitofp(size, v.FLOAT), K))
        return whole, b.fsub(found, whole), b.and_(begun, ended)

    left, fx, across = place(0, x, width)
    top, fy, along = place(1, y, height)
    return _Taps(v.load(b, weights, first, K), left, top, fx, fy, b.and_(across, along))


def _parts(b, tap, K):
    """Bilinear parts of the corners of K taps: north west, north east, south west, south east."""
    west, north = b.fsub(v.constant(1.0, K), tap.fx), b.fsub(v.constant(1.0, K), tap.fy)
    pairs = (west, north), (tap.fx, north), (west, tap.fy), (tap.fx, tap.fy)
    return [b.fmul(across, along) for across, along in pairs]


def _corners(b, places, shares, x, k, wide, K, PITCH):
    """Of tap k of position `x`: the start of each corner, its share, and the share's place."""
    place = b.load(b.gep(places, [b.add(b.mul(x, v.index(K)), k)]))
    north = b.mul(b.zext(place, v.LONG), v.index(PITCH))
    south = b.add(north, b.mul(wide, v.index(PITCH)))
    cells = north, b.add(north, v.index(PITCH)), south, b.add(south, v.index(PITCH))
    first = b.add(b.mul(x, v.index(4 * K)), k)
    entries = [b.add(first, v.index(i * K)) for i in range(4)]
    return [(c, b.load(b.gep(shares, [e])), e) for c, e in zip(cells, entries, strict=True)]
