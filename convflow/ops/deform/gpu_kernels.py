"""Deformable sampling as a Triton kernel: the sums, and what the kernels of the gradients share.

A map is one group of one image. Programs are numbered map by map, so that those which run at a
time read the same rows. Batch, height, width and groups are run-time numbers.

Only `gpu.py` and `gpu_gradient_kernels.py` import this file, because importing it imports Triton.
"""

from __future__ import annotations

# ruff: noqa: RET505  a kernel compiles only one of two returns if the other stands under else
import triton
import triton.language as tl

RUNTIME_SIZES = [
    "row", "reach_stride", "height", "width", "groups", "num_blocks", "num_tiles", "num_slices",
]  # fmt: skip
"""Arguments of all kernels that Triton may not compile in."""


@triton.jit
def load_prior(prior_scale, reach, MERGED: tl.constexpr):  # type: ignore[no-untyped-def]
    """A group's prior scale and an image's reach, where taps are merged heads."""
    if MERGED:
        return tl.load(prior_scale), tl.load(reach), tl.load(reach + 1)
    else:
        return 0.0, 0.0, 0.0


@triton.jit
def starts(values, taps, weights, picture, group, groups, cells, step, C: tl.constexpr, K: tl.constexpr, MERGED: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Where a map begins in values, in taps or merged heads, and in weights."""
    first = picture.to(tl.int64) * cells
    values += first * step + group * C
    if MERGED:
        return values, taps + (first * step + groups * C), weights
    else:
        return values, taps + first * groups * K * 2, weights + first * groups * K


@triton.jit
def load_tap(taps, weights, prior_scale, reach_x, reach_y, position, step, inside, group, groups, k, K: tl.constexpr, MERGED: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Offset and weight of tap k, then its direction and spacing where taps are merged heads."""
    if MERGED:
        heads = taps + position * step
        entry = group * K + k
        x = tl.load(heads + 2 * entry, mask=inside, other=0.0).to(tl.float32)
        y = tl.load(heads + (2 * entry + 1), mask=inside, other=0.0).to(tl.float32)
        logit = tl.load(heads + (2 * K * groups + entry), mask=inside, other=0.0)
        weight = tl.load(heads + (3 * K * groups + entry), mask=inside, other=0.0)
        # The fixed prior: a 3 x 3 grid of -1, 0 and 1, x fastest.
        x += k % 3 - 1.0
        y += k // 3 - 1.0
        spacing = tl.sigmoid(logit.to(tl.float32) + prior_scale)
        offset_x, offset_y = x * (spacing * reach_x), y * (spacing * reach_y)
        return offset_x, offset_y, weight.to(tl.float32), x, y, spacing
    else:
        entry = (position * groups + group) * K + k
        x = tl.load(taps + 2 * entry, mask=inside, other=0.0)
        y = tl.load(taps + (2 * entry + 1), mask=inside, other=0.0)
        weight = tl.load(weights + entry, mask=inside, other=0.0)
        return x, y, weight, x, y, weight


@triton.jit
def _whole(x, TRUNCATE: tl.constexpr):  # type: ignore[no-untyped-def]
    if TRUNCATE:
        return tl.where(x < 0, tl.ceil(x), tl.floor(x))
    else:
        return tl.floor(x)


@triton.jit
def locate(x, y, inside, height, width, TRUNCATE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Whether a tap touches the map, its north west cell, and its fractions of a cell."""
    left, top = _whole(x, TRUNCATE), _whole(y, TRUNCATE)
    # NaN compares false, so it is outside as well.
    touches = inside & (left >= -1.0) & (left < width) & (top >= -1.0) & (top < height)
    fx, fy = tl.where(touches, x - left, 0.0), tl.where(touches, y - top, 0.0)
    left, top = tl.where(touches, left, 0.0).to(tl.int32), tl.where(touches, top, 0.0).to(tl.int32)
    return touches, left, top, fx, fy


@triton.jit
def load_corner(values, row, channel, there):  # type: ignore[no-untyped-def]
    """Numbers (rows, channels) in float32, zero where there are none."""
    return tl.load(values + (row[:, None] + channel), mask=there, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=RUNTIME_SIZES)
def forward(  # type: ignore[no-untyped-def]
    values, taps, weights, prior_scale, reach, out,
    row, reach_stride, height, width, groups, num_blocks,
    C: tl.constexpr, K: tl.constexpr, VECTOR: tl.constexpr, PIECES: tl.constexpr,
    LANES: tl.constexpr, TRUNCATE: tl.constexpr, MERGED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Fill `out` (B, H, W, G, C); a lane is PIECES x VECTOR channels of a position, none is idle.

    Grid: B * G * num_blocks programs of LANES lanes each. `taps` and `weights` are offsets
    (B, H, W, G, K, 2) and weights (B, H, W, G, K) in float32. With MERGED `values` and `taps` are
    one tensor (B, H, W, .), GC values and then 4GK heads to a row, and `weights` is not looked at.
    A row of values has `row` times VECTOR numbers; PIECES x VECTOR divides C. Neighbouring lanes
    read neighbouring pieces. WIDE: an image has more than 2^31 numbers.
    """
    CHUNKS: tl.constexpr = C // (VECTOR * PIECES)
    program = tl.program_id(0)
    picture, group = (program // num_blocks) // groups, (program // num_blocks) % groups
    lane = (program % num_blocks) * LANES + tl.arange(0, LANES)
    if WIDE:
        lane = (program % num_blocks).to(tl.int64) * LANES + tl.arange(0, LANES)
    position, chunk = lane // CHUNKS, lane % CHUNKS
    inside = position < height * width
    at_x, at_y = (position % width).to(tl.float32), (position // width).to(tl.float32)

    step, cells = row * VECTOR, height * width
    values, taps, weights = starts(
        values, taps, weights, picture, group, groups, cells, step, C, K, MERGED
    )
    out += (picture.to(tl.int64) * cells * groups + group) * C
    prior, reach_x, reach_y = load_prior(
        prior_scale + group, reach + picture * reach_stride, MERGED
    )

    channel = (chunk * VECTOR)[:, None] + tl.arange(0, VECTOR)[None, :]
    totals = (tl.zeros((LANES, VECTOR), tl.float32),) * PIECES
    for k in tl.range(0, K):
        x, y, weight, _, _, _ = load_tap(
            taps, weights, prior, reach_x, reach_y, position, step, inside, group, groups, k, K,
            MERGED,
        )  # fmt: skip
        touches, left, top, fx, fy = locate(at_x + x, at_y + y, inside, height, width, TRUNCATE)
        weight = tl.where(touches, weight, 0.0)
        west, east = touches & (left >= 0), touches & (left < width - 1)
        is_north, is_south = (top >= 0)[:, None], (top < height - 1)[:, None]
        north_west, south_west = west[:, None] & is_north, west[:, None] & is_south
        north_east, south_east = east[:, None] & is_north, east[:, None] & is_south
        cell = (top.to(position.dtype) * width + left) * step
        below = cell + width * step
        north, south = weight * (1 - fy), weight * fy
        sums = ()
        for piece in tl.static_range(PIECES):
            at = channel + piece * (CHUNKS * VECTOR)
            nw = load_corner(values, cell, at, north_west)
            ne = load_corner(values, cell + step, at, north_east)
            sw = load_corner(values, below, at, south_west)
            se = load_corner(values, below + step, at, south_east)
            # One addition each, which compilers fuse with its product.
            total = totals[piece] + (north * (1 - fx))[:, None] * nw
            total += (north * fx)[:, None] * ne
            total += (south * (1 - fx))[:, None] * sw
            sums += (total + (south * fx)[:, None] * se,)  # type: ignore[assignment]
        totals = sums
    there = inside[:, None] & (tl.arange(0, VECTOR) >= 0)[None, :]
    place = out + ((position * (groups * C))[:, None] + channel)
    for piece in tl.static_range(PIECES):
        total = totals[piece].to(out.dtype.element_ty)
        tl.store(place + piece * (CHUNKS * VECTOR), total, there)


@triton.jit(do_not_specialize=RUNTIME_SIZES)
def tangent(  # type: ignore[no-untyped-def]
    values, taps, weights, values_tangent, taps_tangent, weights_tangent, out,
    row, reach_stride, height, width, groups, num_blocks,
    C: tl.constexpr, K: tl.constexpr, VECTOR: tl.constexpr, LANES: tl.constexpr,
    TRUNCATE: tl.constexpr, MERGED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Fill `out` with the directional derivative of what `forward` fills its own with.

    The tangents have the shapes of values, offsets and weights. A lane is VECTOR channels of a
    position. Grid and numbers are otherwise those of `forward` without MERGED.
    """
    CHUNKS: tl.constexpr = C // VECTOR
    program = tl.program_id(0)
    picture, group = (program // num_blocks) // groups, (program // num_blocks) % groups
    lane = (program % num_blocks) * LANES + tl.arange(0, LANES)
    if WIDE:
        lane = (program % num_blocks).to(tl.int64) * LANES + tl.arange(0, LANES)
    position, chunk = lane // CHUNKS, lane % CHUNKS
    inside = position < height * width
    at_x, at_y = (position % width).to(tl.float32), (position // width).to(tl.float32)

    step, cells = row * VECTOR, height * width
    values, taps, weights = starts(
        values, taps, weights, picture, group, groups, cells, step, C, K, MERGED
    )
    values_tangent, taps_tangent, weights_tangent = starts(
        values_tangent, taps_tangent, weights_tangent, picture, group, groups, cells, step, C, K,
        MERGED,
    )  # fmt: skip
    out += (picture.to(tl.int64) * cells * groups + group) * C

    channel = (chunk * VECTOR)[:, None] + tl.arange(0, VECTOR)[None, :]
    total = tl.zeros((LANES, VECTOR), tl.float32)
    for k in tl.range(0, K):
        x, y, weight, _, _, _ = load_tap(
            taps, weights, 0.0, 0.0, 0.0, position, step, inside, group, groups, k, K, MERGED
        )
        along_x, along_y, change, _, _, _ = load_tap(
            taps_tangent, weights_tangent, 0.0, 0.0, 0.0, position, step, inside, group, groups, k,
            K, MERGED,
        )  # fmt: skip
        touches, left, top, fx, fy = locate(at_x + x, at_y + y, inside, height, width, TRUNCATE)
        weight, change = tl.where(touches, weight, 0.0), tl.where(touches, change, 0.0)
        along_x, along_y = tl.where(touches, along_x, 0.0), tl.where(touches, along_y, 0.0)
        west, east = touches & (left >= 0), touches & (left < width - 1)
        is_north, is_south = (top >= 0)[:, None], (top < height - 1)[:, None]
        north_west, south_west = west[:, None] & is_north, west[:, None] & is_south
        north_east, south_east = east[:, None] & is_north, east[:, None] & is_south
        cell = (top.to(position.dtype) * width + left) * step
        below = cell + width * step

        share, turn = (1 - fy) * (1 - fx), -(1 - fy) * along_x - (1 - fx) * along_y
        slope = (change * share + weight * turn)[:, None]
        total += slope * load_corner(values, cell, channel, north_west)
        moved = load_corner(values_tangent, cell, channel, north_west)
        total += (weight * share)[:, None] * moved

        share, turn = (1 - fy) * fx, (1 - fy) * along_x - fx * along_y
        slope = (change * share + weight * turn)[:, None]
        total += slope * load_corner(values, cell + step, channel, north_east)
        moved = load_corner(values_tangent, cell + step, channel, north_east)
        total += (weight * share)[:, None] * moved

        share, turn = fy * (1 - fx), (1 - fx) * along_y - fy * along_x
        slope = (change * share + weight * turn)[:, None]
        total += slope * load_corner(values, below, channel, south_west)
        moved = load_corner(values_tangent, below, channel, south_west)
        total += (weight * share)[:, None] * moved

        share, turn = fy * fx, fy * along_x + fx * along_y
        slope = (change * share + weight * turn)[:, None]
        total += slope * load_corner(values, below + step, channel, south_east)
        moved = load_corner(values_tangent, below + step, channel, south_east)
        total += (weight * share)[:, None] * moved
    there = inside[:, None] & (tl.arange(0, VECTOR) >= 0)[None, :]
    place = out + ((position * (groups * C))[:, None] + channel)
    tl.store(place, total.to(out.dtype.element_ty), there)
