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
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_LANES = 16
"""Numbers of float32 in 64 bytes: a line of the caches, and the widest vectors there are."""
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
_FLOAT, _INT, _LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)


@functools.cache
def forward_kernel(channels: int, num_taps: int) -> Callable[..., None]:
    """Kernel(values, offsets, weights, out, truncate, start, stop) for so many channels and taps.

    It fills `out` for the maps start .. stop - 1, counted over images, then groups. Other sizes
    vary freely. All arrays are contiguous float32 in the operator's shapes.
    """
    C, K, PITCH = channels, num_taps, _pitch(channels)

    def forward(values, offsets, weights, out, truncate, start, stop):
        _, H, W, G, _ = weights.shape
        rows, places, shares = _scratch(H, W, K, PITCH)
        for task in range(start, stop):
            first = task // G * (H * W * G) + task % G
            for y in range(H):
                for x in range(W):
                    to = ((y + 1) * (W + 2) + x + 1) * PITCH
                    _copy(values, (first + (y * W + x) * G) * C, rows, to, C)
            for y in range(H):
                at = first + y * W * G
                for x in range(W):
                    _locate(offsets, weights, at + x * G, x, y, H, W, truncate, places, shares, K)
                for x in range(W):
                    _gather(rows, places, shares, x, W + 2, out, at + x * G, C, K, PITCH)

    return _compiled(forward, channels, num_taps)


@functools.cache
def backward_kernel(channels: int, num_taps: int) -> Callable[..., None]:
    """Kernel(grad, values, offsets, weights, grad_values, grad_offsets, grad_weights, truncate,
    start, stop) for so many channels and taps.

    It fills the last three arrays for the maps start .. stop - 1; otherwise as `forward_kernel`.
    """
    C, K, PITCH = channels, num_taps, _pitch(channels)

    def backward(
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
        _, H, W, G, _ = weights.shape
        rows, places, shares = _scratch(H, W, K, PITCH)
        sums, dots = _blank(rows.size), np.empty_like(shares)
        for task in range(start, stop):
            first = task // G * (H * W * G) + task % G
            sums[:] = 0
            for y in range(H):
                for x in range(W):
                    to = ((y + 1) * (W + 2) + x + 1) * PITCH
                    _copy(values, (first + (y * W + x) * G) * C, rows, to, C)
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
                    _copy(sums, cell, grad_values, (first + (y * W + x) * G) * C, C)

    return _compiled(backward, channels, num_taps)


def _compiled(function: Callable[..., Any], channels: int, num_taps: int) -> Callable[..., Any]:
    """The kernel, with files of its own in numba's cache.

    Two programs that write the cache at once can swap the kernels that share an index there.
    """
    function.__qualname__ += f"_{channels}_{num_taps}"
    try:
        return numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # numba finds no folder that it may write its cache to
        return numba.njit(**_OPTIONS)(function)


def _pitch(channels: int) -> int:
    """Numbers from one cell of a scratch to the next: no vector lies across two lines."""
    lanes = min(_LANES, 1 << (channels - 1).bit_length())
    return -(-channels // lanes) * lanes


@numba.njit(**_OPTIONS)
def _blank(size):
    """Zeros that begin with a line of the caches."""
    found = np.zeros(size + _LANES, np.float32)
    skipped = -(found.ctypes.data // 4) % _LANES
    return found[skipped : skipped + size]


@numba.njit(**_OPTIONS)
def _scratch(height, width, taps, pitch):
    """A blank map, then places and shares of the taps of a row of positions.

    The map has a ring of one cell and below it another row, for taps that touch nothing.
    """
    rows = _blank((height + 4) * (width + 2) * pitch)
    return rows, np.empty(width * taps, np.int32), np.empty(4 * width * taps, np.float32)


def _inlined(emit: Callable[..., None]) -> Any:
    """Let kernels call what `emit` writes with a builder of LLVM's instructions.

    Arrays come to it as pointers to their first number, constants as Python's numbers, anything
    else as LLVM's values.
    """

    def typed(_: Any, *given: Any) -> tuple[Any, Callable[..., Any]]:
        def write(context: Any, b: ir.IRBuilder, signature: Any, values: Any) -> Any:
            read = []
            for kind, value in zip(given, values, strict=True):
                if isinstance(kind, types.Array):
                    value = context.make_array(kind)(context, b, value).data
                read.append(getattr(kind, "literal_value", value))
            emit(b, *read)
            return context.get_dummy_value()

        if any(isinstance(kind, types.Array) and kind.layout != "C" for kind in given):
            raise numba.TypingError(f"{emit.__name__}: expected contiguous arrays, got {given}")
        return types.void(*given), write

    typed.__signature__ = inspect.signature(emit)  # type: ignore[attr-defined]
    typed.__name__ = emit.__name__
    return intrinsic(prefer_literal=True)(typed)


@_inlined
def _copy(b, source, at, target, to, C):
    """C numbers from one place to another."""
    for start, lanes in _pieces(C):
        _store(b, _load(b, source, b.add(at, _long(start)), lanes), target, b.add(to, _long(start)))


@_inlined
def _locate(b, offsets, weights, at, x, y, height, width, truncate, places, shares, K):
    """North west cells of the K taps of a position, and their weights' parts for the corners."""
    tap = _read_taps(b, offsets, weights, at, x, y, height, width, truncate, K)
    zero, one = _all(0.0, K), ir.Constant(ir.VectorType(_INT, K), [1] * K)
    south = b.fmul(tap.weight, tap.fy)
    north = b.fsub(tap.weight, south)
    south_east, north_east = b.fmul(south, tap.fx), b.fmul(north, tap.fx)
    corners = b.fsub(north, north_east), north_east, b.fsub(south, south_east), south_east
    row = b.mul(x, _long(4 * K))
    for number, share in enumerate(corners):
        _store(b, b.select(tap.touches, share, zero), shares, b.add(row, _long(number * K)))
    # An infinite weight less a part of it is NaN, where its product with a share may be infinite.
    nan = b.or_(b.fcmp_unordered("uno", *corners[:2]), b.fcmp_unordered("uno", *corners[2:]))
    odd = b.and_(tap.touches, nan)
    with cgutils.if_unlikely(b, _any(b, odd)):
        for number, (share, part) in enumerate(zip(corners, _parts(b, tap, K), strict=True)):
            exact = b.select(odd, b.fmul(tap.weight, part), share)
            _store(b, b.select(tap.touches, exact, zero), shares, b.add(row, _long(number * K)))
    # A tap that touches nothing is put below the map, where nothing is written.
    below = _spread(b, b.sitofp(b.add(height, _long(1)), _FLOAT), K)
    left = b.fptosi(b.select(tap.touches, tap.left, _all(-1.0, K)), one.type)
    top = b.fptosi(b.select(tap.touches, tap.top, below), one.type)
    wide = _spread(b, b.trunc(b.add(width, _long(2)), _INT), K)
    place = b.add(b.mul(b.add(top, one), wide), b.add(left, one))
    _store(b, place, places, b.mul(x, _long(K)))


@_inlined
def _gather(b, rows, places, shares, x, wide, out, at, C, K, PITCH):
    """The sum of the K taps of position `x` of a row; all C sums stay in registers."""
    pieces = _pieces(C)
    totals = [cgutils.alloca_once(b, ir.VectorType(_FLOAT, lanes)) for _, lanes in pieces]
    for (_, lanes), total in zip(pieces, totals, strict=True):
        b.store(_all(0.0, lanes), total)
    with cgutils.for_range(b, _long(K)) as loop:
        corners = _corners(b, places, shares, x, loop.index, wide, K, PITCH)
        for (start, lanes), total in zip(pieces, totals, strict=True):
            found = b.load(total)
            for cell, share, _ in corners:
                value = _load(b, rows, b.add(cell, _long(start)), lanes)
                found = _fma(b, _spread(b, share, lanes), value, found)
            b.store(found, total)
    for (start, _), total in zip(pieces, totals, strict=True):
        _store(b, b.load(total), out, b.add(b.mul(at, _long(C)), _long(start)))


@_inlined
def _scatter(b, grad, at, rows, sums, places, shares, dots, x, wide, C, K, PITCH):
    """Add the upstream gradient of a position to `sums`; its products with the corners: `dots`."""
    first = b.mul(at, _long(C))
    upstream = [_load(b, grad, b.add(first, _long(s)), lanes) for s, lanes in _pieces(C)]
    with cgutils.for_range(b, _long(K)) as loop:
        for cell, share, entry in _corners(b, places, shares, x, loop.index, wide, K, PITCH):
            totals = dict[int, Any]()
            for (start, lanes), part in zip(_pieces(C), upstream, strict=True):
                place = b.add(cell, _long(start))
                total = totals.get(lanes, _all(0.0, lanes))
                totals[lanes] = _fma(b, part, _load(b, rows, place, lanes), total)
                old = _load(b, sums, place, lanes)
                _store(b, _fma(b, _spread(b, share, lanes), part, old), sums, place)
            dot = ir.Constant(_FLOAT, 0.0)
            for total in totals.values():
                dot = _sum(b, dot, total)
            b.store(dot, b.gep(dots, [entry]))


@_inlined
def _finish(
    b, offsets, weights, at, x, y, height, width, truncate, dots, grad_offsets, grad_weights, K
):
    """Gradients of the K taps of a position from its `dots`."""
    tap = _read_taps(b, offsets, weights, at, x, y, height, width, truncate, K)
    row, zero = b.mul(x, _long(4 * K)), _all(0.0, K)
    nw, ne, sw, se = (_load(b, dots, b.add(row, _long(i * K)), K) for i in range(4))

    def between(one: Any, other: Any, fraction: Any) -> Any:
        return _fma(b, fraction, b.fsub(other, one), one)

    slope_x = b.fmul(tap.weight, between(b.fsub(ne, nw), b.fsub(se, sw), tap.fy))
    slope_y = b.fmul(tap.weight, between(b.fsub(sw, nw), b.fsub(se, ne), tap.fx))
    sample = between(between(nw, ne, tap.fx), between(sw, se, tap.fx), tap.fy)

    def store(*found: Any) -> None:
        of_x, of_y, of_weight = (b.select(tap.touches, number, zero) for number in found)
        first = b.mul(at, _long(K))
        both = _shuffle(b, of_x, of_y, [k + K * axis for k in range(K) for axis in range(2)])
        _store(b, both, grad_offsets, b.mul(first, _long(2)))
        _store(b, of_weight, grad_weights, first)

    store(slope_x, slope_y, sample)
    # A difference of infinities is NaN, where the sum of their parts may be infinite.
    nan = b.or_(b.fcmp_unordered("uno", slope_x, slope_y), b.fcmp_unordered("uno", sample, sample))
    odd = b.and_(tap.touches, nan)
    with cgutils.if_unlikely(b, _any(b, odd)):
        dotted = (nw, ne, sw, se)
        terms = [b.fmul(p, dot) for p, dot in zip(_parts(b, tap, K), dotted, strict=True)]
        far_x, far_y = b.fsub(_all(1.0, K), tap.fx), b.fsub(_all(1.0, K), tap.fy)
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
    first = b.mul(at, _long(K))
    both = _load(b, offsets, b.mul(first, _long(2)), 2 * K)

    def place(axis: int, origin: Any, size: Any) -> tuple[Any, Any, Any]:
        offset = _shuffle(b, both, both, range(axis, 2 * K, 2))
        found = b.fadd(_spread(b, b.sitofp(origin, _FLOAT), K), offset)
        whole = b.select(truncate, _round(b, "trunc", found), _round(b, "floor", found))
        # NaN compares false, so it is outside as well.
        begun = b.fcmp_ordered(">=", whole, _all(-1.0, K))
        ended = b.fcmp_ordered("<", whole, _spread(b, b.sitofp(size, _FLOAT), K))
        return whole, b.fsub(found, whole), b.and_(begun, ended)

    left, fx, across = place(0, x, width)
    top, fy, along = place(1, y, height)
    return _Taps(_load(b, weights, first, K), left, top, fx, fy, b.and_(across, along))


def _parts(b, tap, K):
    """Bilinear parts of the corners of K taps: north west, north east, south west, south east."""
    west, north = b.fsub(_all(1.0, K), tap.fx), b.fsub(_all(1.0, K), tap.fy)
    pairs = (west, north), (tap.fx, north), (west, tap.fy), (tap.fx, tap.fy)
    return [b.fmul(across, along) for across, along in pairs]


def _corners(b, places, shares, x, k, wide, K, PITCH):
    """Of tap k of position `x`: the start of each corner, its share, and the share's place."""
    place = b.load(b.gep(places, [b.add(b.mul(x, _long(K)), k)]))
    north = b.mul(b.zext(place, _LONG), _long(PITCH))
    south = b.add(north, b.mul(wide, _long(PITCH)))
    cells = north, b.add(north, _long(PITCH)), south, b.add(south, _long(PITCH))
    first = b.add(b.mul(x, _long(4 * K)), k)
    entries = [b.add(first, _long(i * K)) for i in range(4)]
    return [(c, b.load(b.gep(shares, [e])), e) for c, e in zip(cells, entries, strict=True)]


def _pieces(count: int) -> list[tuple[int, int]]:
    """Start and lanes of the vectors that make up `count` numbers, the widest first."""
    pieces, start, lanes = [], 0, _LANES
    while start < count:
        while lanes > count - start:
            lanes //= 2
        pieces.append((start, lanes))
        start += lanes
    return pieces


def _long(number: int) -> ir.Constant:
    return ir.Constant(_LONG, number)


def _all(number: float, lanes: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(_FLOAT, lanes), [number] * lanes)


def _load(b, pointer, at, lanes):
    vector = ir.VectorType(_FLOAT, lanes)
    loaded = b.load(b.bitcast(b.gep(pointer, [at]), vector.as_pointer()))
    loaded.align = 4
    return loaded


def _store(b, vector, pointer, at):
    b.store(vector, b.bitcast(b.gep(pointer, [at]), vector.type.as_pointer())).align = 4


def _shuffle(b, one, other, lanes):
    chosen = ir.Constant(ir.VectorType(_INT, len(lanes)), list(lanes))
    return b.shuffle_vector(one, other, chosen)


def _spread(b, scalar, lanes):
    nothing = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    first = b.insert_element(nothing, scalar, ir.Constant(_INT, 0))
    return _shuffle(b, first, nothing, [0] * lanes)


def _fma(b, one, other, addend):
    return b.fadd(b.fmul(one, other, flags=("contract",)), addend, flags=("contract",))


def _round(b, how, vector):
    return _call(b, f"llvm.{how}.v{vector.type.count}f32", vector.type, vector)


def _any(b, flags):
    bit = flags.type.element
    return _call(b, f"llvm.vector.reduce.or.v{flags.type.count}i1", bit, flags)


def _sum(b, start, vector):
    name = f"llvm.vector.reduce.fadd.v{vector.type.count}f32"
    return _call(b, name, _FLOAT, start, vector, fastmath=("reassoc",))


def _call(b, name, result, *values, fastmath=()):
    kind = ir.FunctionType(result, [value.type for value in values])
    function = cgutils.get_or_insert_function(b.module, kind, name)
    return b.call(function, values, fastmath=fastmath)
