"""Deformable sampling as Triton kernels: the sums, and the gradients of taps and values.

A map is one group of one image. Programs are numbered map by map, so that those which run at a
time read the same rows. Batch, height, width and groups are run-time numbers.

The gradient of the values is gathered, not scattered. One program owns 8 x 8 cells and multiplies
the matrix "share of each cell in each position" by the upstream gradient: no atomics, nothing to
clear, the same bits on every run. The kernel of the taps leaves behind which cells every tile of
positions reaches, so that tiles out of reach are skipped.

Only `gpu.py` imports this file, because importing it imports Triton.
"""

from __future__ import annotations

# ruff: noqa: RET505  a kernel compiles only one of two returns if the other stands under else
import triton
import triton.language as tl

TILE = tl.constexpr(8)
"""Cells along one side of a square of positions or cells that one program of a backward owns."""
_FAR = tl.constexpr(2**30)

_SIZES = [
    "row", "reach_stride", "height", "width", "groups", "num_blocks", "num_tiles", "num_slices",
]  # fmt: skip


@triton.jit
def _load_prior(prior_scale, reach, MERGED: tl.constexpr):  # type: ignore[no-untyped-def]
    if MERGED:
        return tl.load(prior_scale), tl.load(reach), tl.load(reach + 1)
    else:
        return 0.0, 0.0, 0.0


@triton.jit
def _starts(values, taps, weights, picture, group, groups, cells, step, C: tl.constexpr, K: tl.constexpr, MERGED: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Where a map begins in values, in taps or merged heads, and in weights."""
    first = picture.to(tl.int64) * cells
    values += first * step + group * C
    if MERGED:
        return values, taps + (first * step + groups * C), weights
    else:
        return values, taps + first * groups * K * 2, weights + first * groups * K


@triton.jit
def _load_tap(taps, weights, prior_scale, reach_x, reach_y, position, step, inside, group, groups, k, K: tl.constexpr, MERGED: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
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
def _locate(x, y, inside, height, width, TRUNCATE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Whether a tap touches the map, its north west cell, and its fractions of a cell."""
    left, top = _whole(x, TRUNCATE), _whole(y, TRUNCATE)
    # NaN compares false, so it is outside as well.
    touches = inside & (left >= -1.0) & (left < width) & (top >= -1.0) & (top < height)
    fx, fy = tl.where(touches, x - left, 0.0), tl.where(touches, y - top, 0.0)
    left, top = tl.where(touches, left, 0.0).to(tl.int32), tl.where(touches, top, 0.0).to(tl.int32)
    return touches, left, top, fx, fy


@triton.jit
def _load_corner(values, row, channel, there):  # type: ignore[no-untyped-def]
    return tl.load(values + (row[:, None] + channel), mask=there, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=_SIZES)
def forward(  # type: ignore[no-untyped-def]
    values, taps, weights, prior_scale, reach, out,
    row, reach_stride, height, width, groups, num_blocks,
    C: tl.constexpr, K: tl.constexpr, VECTOR: tl.constexpr, LANES: tl.constexpr,
    TRUNCATE: tl.constexpr, MERGED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Fill `out` (B, H, W, G, C); a lane is VECTOR channels of one position, none is idle.

    Grid: B * G * num_blocks programs of LANES lanes each. `taps` and `weights` are offsets
    (B, H, W, G, K, 2) and weights (B, H, W, G, K) in float32. With MERGED `values` and `taps` are
    one tensor (B, H, W, .), GC values and then 4GK heads to a row, and `weights` is not looked at.
    A row of values has `row` times VECTOR numbers; VECTOR divides C. WIDE: an image has more than
    2^31 numbers.
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
    values, taps, weights = _starts(
        values, taps, weights, picture, group, groups, cells, step, C, K, MERGED
    )
    out += (picture.to(tl.int64) * cells * groups + group) * C
    prior, reach_x, reach_y = _load_prior(
        prior_scale + group, reach + picture * reach_stride, MERGED
    )

    channel = (chunk * VECTOR)[:, None] + tl.arange(0, VECTOR)[None, :]
    total = tl.zeros((LANES, VECTOR), tl.float32)
    for k in tl.range(0, K):
        x, y, weight, _, _, _ = _load_tap(
            taps, weights, prior, reach_x, reach_y, position, step, inside, group, groups, k, K,
            MERGED,
        )  # fmt: skip
        touches, left, top, fx, fy = _locate(at_x + x, at_y + y, inside, height, width, TRUNCATE)
        weight = tl.where(touches, weight, 0.0)
        west, east = touches & (left >= 0), touches & (left < width - 1)
        is_north, is_south = (top >= 0)[:, None], (top < height - 1)[:, None]
        cell = (top.to(position.dtype) * width + left) * step
        nw = _load_corner(values, cell, channel, west[:, None] & is_north)
        ne = _load_corner(values, cell + step, channel, east[:, None] & is_north)
        cell += width * step
        sw = _load_corner(values, cell, channel, west[:, None] & is_south)
        se = _load_corner(values, cell + step, channel, east[:, None] & is_south)
        north, south = weight * (1 - fy), weight * fy
        total += (north * (1 - fx))[:, None] * nw + (north * fx)[:, None] * ne
        total += (south * (1 - fx))[:, None] * sw + (south * fx)[:, None] * se
    there = inside[:, None] & (tl.arange(0, VECTOR) >= 0)[None, :]
    place = out + ((position * (groups * C))[:, None] + channel)
    tl.store(place, total.to(out.dtype.element_ty), there)


@triton.jit(do_not_specialize=_SIZES)
def taps_gradient(  # type: ignore[no-untyped-def]
    grad, values, taps, weights, prior_scale, reach, grad_taps, grad_weights, grad_prior, boxes,
    row, reach_stride, height, width, groups, num_tiles,
    C: tl.constexpr, K: tl.constexpr, VECTOR: tl.constexpr, BLOCK: tl.constexpr, TAPS: tl.constexpr,
    TRUNCATE: tl.constexpr, MERGED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Fill the gradients of the taps, and `boxes` (B, G, num_tiles, 4, K) for `values_gradient`.

    Grid: B * G * num_tiles programs, one for each 8 x 8 tile of positions. A box holds the least
    and the greatest column, then row, of the north west cells of tap k in that tile. With MERGED,
    `grad_taps` is that of the merged tensor, and `grad_prior` (B, G, num_tiles) gets this tile's
    share of the gradient of `prior_scale`, instead of `grad_weights`. BLOCK channels are read at
    once; TAPS is K rounded up to a power of two.
    """
    program = tl.program_id(0)
    picture, group = (program // num_tiles) // groups, (program // num_tiles) % groups
    tiles_wide = tl.cdiv(width, TILE)
    tile = program % num_tiles
    spot = tl.arange(0, TILE * TILE)
    at_x, at_y = tile % tiles_wide * TILE + spot % TILE, tile // tiles_wide * TILE + spot // TILE
    inside = (at_x < width) & (at_y < height)
    position = at_y * width + at_x
    if WIDE:
        position = at_y.to(tl.int64) * width + at_x

    step, cells = row * VECTOR, height * width
    _, grad_taps, grad_weights = _starts(
        values, grad_taps, grad_weights, picture, group, groups, cells, step, C, K, MERGED
    )
    values, taps, weights = _starts(
        values, taps, weights, picture, group, groups, cells, step, C, K, MERGED
    )
    grad += (picture.to(tl.int64) * cells * groups + group) * C
    prior, reach_x, reach_y = _load_prior(
        prior_scale + group, reach + picture * reach_stride, MERGED
    )

    prior_total = tl.zeros((TILE * TILE,), tl.float32)
    for k in tl.range(0, K):
        x, y, weight, bend_x, bend_y, spacing = _load_tap(
            taps, weights, prior, reach_x, reach_y, position, step, inside, group, groups, k, K,
            MERGED,
        )  # fmt: skip
        touches, left, top, fx, fy = _locate(
            at_x.to(tl.float32) + x, at_y.to(tl.float32) + y, inside, height, width, TRUNCATE
        )
        west, east = touches & (left >= 0), touches & (left < width - 1)
        is_north, is_south = (top >= 0)[:, None], (top < height - 1)[:, None]
        cell = (top.to(position.dtype) * width + left) * step
        nw = tl.zeros((TILE * TILE, BLOCK), tl.float32)
        ne, sw, se = nw, nw, nw
        for start in tl.static_range(0, C, BLOCK):
            channel = start + tl.arange(0, BLOCK)[None, :]
            real = channel < C
            own = position * (groups * C)
            upstream = _load_corner(grad, own, channel, inside[:, None] & real)
            north_west = _load_corner(values, cell, channel, west[:, None] & is_north & real)
            north_east = _load_corner(values, cell + step, channel, east[:, None] & is_north & real)
            below = cell + width * step
            south_west = _load_corner(values, below, channel, west[:, None] & is_south & real)
            south_east = _load_corner(
                values, below + step, channel, east[:, None] & is_south & real
            )
            nw += upstream * north_west
            ne += upstream * north_east
            sw += upstream * south_west
            se += upstream * south_east
        dot_nw, dot_ne = tl.sum(nw, 1), tl.sum(ne, 1)
        dot_sw, dot_se = tl.sum(sw, 1), tl.sum(se, 1)
        # A weight, or an upstream gradient, is not looked at when the tap is outside.
        slope_x = weight * ((1 - fy) * (dot_ne - dot_nw) + fy * (dot_se - dot_sw))
        slope_y = weight * ((1 - fx) * (dot_sw - dot_nw) + fx * (dot_se - dot_ne))
        slope_x, slope_y = tl.where(touches, slope_x, 0.0), tl.where(touches, slope_y, 0.0)
        sample = (1 - fy) * ((1 - fx) * dot_nw + fx * dot_ne)
        sample += fy * ((1 - fx) * dot_sw + fx * dot_se)
        sample = tl.where(touches, sample, 0.0)
        if MERGED:
            heads = grad_taps + (position * step + (group * K + k))
            turn = heads + (group * K + k)
            kind = grad_taps.dtype.element_ty
            slope_x, slope_y = slope_x * reach_x, slope_y * reach_y
            slope = (slope_x * bend_x + slope_y * bend_y) * (spacing * (1 - spacing))
            tl.store(turn, (slope_x * spacing).to(kind), inside)
            tl.store(turn + 1, (slope_y * spacing).to(kind), inside)
            tl.store(heads + 2 * K * groups, slope.to(kind), inside)
            tl.store(heads + 3 * K * groups, sample.to(kind), inside)
            prior_total += tl.where(inside, slope, 0.0)
        else:
            entry = (position * groups + group) * K + k
            tl.store(grad_taps + 2 * entry, slope_x, inside)
            tl.store(grad_taps + (2 * entry + 1), slope_y, inside)
            tl.store(grad_weights + entry, sample, inside)
    if MERGED:
        tl.store(grad_prior + program, tl.sum(prior_total, 0))

    tap = tl.arange(0, TAPS)
    real_tap = inside[:, None] & (tap < K)[None, :]
    x, y, _, _, _, _ = _load_tap(
        taps, weights, prior, reach_x, reach_y, position[:, None], step, real_tap, group,
        groups, tap[None, :], K, MERGED,
    )  # fmt: skip
    x, y = at_x.to(tl.float32)[:, None] + x, at_y.to(tl.float32)[:, None] + y
    touches, left, top, _, _ = _locate(x, y, real_tap, height, width, TRUNCATE)
    box = boxes + program.to(tl.int64) * (4 * K) + tap
    tl.store(box, tl.min(tl.where(touches, left, _FAR), 0), tap < K)
    tl.store(box + K, tl.max(tl.where(touches, left, -_FAR), 0), tap < K)
    tl.store(box + 2 * K, tl.min(tl.where(touches, top, _FAR), 0), tap < K)
    tl.store(box + 3 * K, tl.max(tl.where(touches, top, -_FAR), 0), tap < K)


@triton.jit
def _reaches(box, first_x, first_y, real, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """Whether taps with these boxes touch the 8 x 8 cells from (first_x, first_y) on."""
    least_x = tl.load(box, mask=real, other=_FAR)
    most_x = tl.load(box + K, mask=real, other=-_FAR)
    least_y = tl.load(box + 2 * K, mask=real, other=_FAR)
    most_y = tl.load(box + 3 * K, mask=real, other=-_FAR)
    across = (least_x < first_x + TILE) & (most_x + 1 >= first_x)
    return across & (least_y < first_y + TILE) & (most_y + 1 >= first_y)


@triton.jit(do_not_specialize=_SIZES)
def values_gradient(  # type: ignore[no-untyped-def]
    grad, taps, weights, prior_scale, reach, boxes, grad_values,
    row, reach_stride, height, width, groups, num_tiles, num_slices,
    C: tl.constexpr, K: tl.constexpr, VECTOR: tl.constexpr, SLICE: tl.constexpr, TAPS: tl.constexpr,
    PART: tl.constexpr, PRECISION: tl.constexpr, TRUNCATE: tl.constexpr, MERGED: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """Fill `grad_values`, laid out as the values, from the `boxes` that `taps_gradient` wrote.

    Grid: B * G * num_tiles * num_slices programs, one for each 8 x 8 tile of cells and SLICE
    channels. PART positions are multiplied at a time, in the arithmetic PRECISION. A number that
    is not finite in `grad` or `weights` spreads over the cells that its tile of positions reaches.
    """
    program = tl.program_id(0)
    first = (program % num_slices) * SLICE
    own = program // num_slices
    map_, tile = own // num_tiles, own % num_tiles
    picture, group = map_ // groups, map_ % groups
    tiles_wide = tl.cdiv(width, TILE)
    first_x, first_y = tile % tiles_wide * TILE, tile // tiles_wide * TILE
    spot = tl.arange(0, TILE * TILE)
    cell_x, cell_y = first_x + spot % TILE, first_y + spot // TILE

    step, cells = row * VECTOR, height * width
    grad_values, taps, weights = _starts(
        grad_values, taps, weights, picture, group, groups, cells, step, C, K, MERGED
    )
    grad += (picture.to(tl.int64) * cells * groups + group) * C
    boxes += map_.to(tl.int64) * num_tiles * (4 * K)
    prior, reach_x, reach_y = _load_prior(
        prior_scale + group, reach + picture * reach_stride, MERGED
    )

    channel = first + tl.arange(0, SLICE)[None, :]
    tap = tl.arange(0, TAPS)
    total = tl.zeros((TILE * TILE, SLICE), tl.float32)
    for source in tl.range(0, num_tiles):
        box = boxes + source * (4 * K)
        if tl.max(_reaches(box + tap, first_x, first_y, tap < K, K).to(tl.int32), 0) > 0:
            for begun in tl.range(0, TILE * TILE, PART):
                part = begun + tl.arange(0, PART)
                at_x = source % tiles_wide * TILE + part % TILE
                at_y = source // tiles_wide * TILE + part // TILE
                inside = (at_x < width) & (at_y < height)
                position = at_y * width + at_x
                if WIDE:
                    position = at_y.to(tl.int64) * width + at_x
                share = tl.zeros((TILE * TILE, PART), tl.float32)
                for k in tl.range(0, K):
                    if _reaches(box + k, first_x, first_y, k < K, K):
                        x, y, weight, _, _, _ = _load_tap(
                            taps, weights, prior, reach_x, reach_y, position, step, inside, group,
                            groups, k, K, MERGED,
                        )  # fmt: skip
                        touches, left, top, fx, fy = _locate(
                            at_x.to(tl.float32) + x, at_y.to(tl.float32) + y, inside, height,
                            width, TRUNCATE,
                        )  # fmt: skip
                        weight = tl.where(touches, weight, 0.0)
                        north, south = (weight * (1 - fy))[None, :], (weight * fy)[None, :]
                        below = cell_y[:, None] - top[None, :]
                        right = cell_x[:, None] - left[None, :]
                        tall = tl.where(below == 0, north, tl.where(below == 1, south, 0.0))
                        wide = tl.where(right == 1, fx[None, :], 0.0)
                        share += tall * tl.where(right == 0, (1 - fx)[None, :], wide)
                if PRECISION == "tf32":
                    # Rounded to nearest here, because the matrix units would cut the last bits off.
                    bits = share.to(tl.int32, bitcast=True) + 0x1000
                    rounded = (bits & -0x2000).to(tl.float32, bitcast=True)
                    # NaN of all ones, which GPUs make, would become -0.
                    share = tl.where(share == share, rounded, share)
                real = inside[:, None] & (channel < C)
                upstream = _load_corner(grad, position * (groups * C), channel, real)
                total = tl.dot(share, upstream, total, input_precision=PRECISION)
    cell = cell_y * width + cell_x
    if WIDE:
        cell = cell_y.to(tl.int64) * width + cell_x
    real = ((cell_x < width) & (cell_y < height))[:, None] & (channel < C)
    kind = grad_values.dtype.element_ty
    tl.store(grad_values + ((cell * step)[:, None] + channel), total.to(kind), real)
