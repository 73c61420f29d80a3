"""Deformable sampling as Triton kernels: the gradients of taps and values.

The gradient of the values is gathered, not scattered. One program owns 8 x 8 cells and multiplies
the matrix "share of each cell in each position" by the upstream gradient: no atomics, nothing to
clear, the same bits on every run. `tap_boxes` finds which cells each tile of positions reaches, so
that tiles out of reach are skipped, and how far the taps of a map reach at all, so that the others
are not even looked at.

Only `gpu.py` imports this file, because importing it imports Triton.
"""

from __future__ import annotations

# ruff: noqa: RET505  a kernel compiles only one of two returns if the other stands under else
import triton
import triton.language as tl

from convflow.ops.deform.gpu_kernels import (
    RUNTIME_SIZES,
    load_corner,
    load_prior,
    load_tap,
    locate,
    starts,
)

TILE = tl.constexpr(8)
"""Cells along one side of a square of positions or cells that one program owns."""
FAR = tl.constexpr(2**30)
INTERPRETED = tl.constexpr(not isinstance(locate, triton.JITFunction))


@triton.jit
def _read_tile(tile, tiles_wide, height, width, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Column and row of the positions of a tile, which of them there are, and their numbers."""
    spot = tl.arange(0, TILE * TILE)
    x, y = tile % tiles_wide * TILE + spot % TILE, tile // tiles_wide * TILE + spot // TILE
    inside = (x < width) & (y < height)
    if WIDE:
        return x, y, inside, y.to(tl.int64) * width + x
    else:
        return x, y, inside, y * width + x


@triton.jit(do_not_specialize=RUNTIME_SIZES)
def taps_gradient(  # type: ignore[no-untyped-def]
    grad, values, taps, weights, prior_scale, reach, grad_taps, grad_weights, grad_prior,
    row, reach_stride, height, width, groups, num_tiles,
    C: tl.constexpr, K: tl.constexpr, VECTOR: tl.constexpr, BLOCK: tl.constexpr, TAPS: tl.constexpr,
    TRUNCATE: tl.constexpr, MERGED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Fill the gradients of the taps.

    Grid: B * G * num_tiles programs, one for each 8 x 8 tile of positions. With MERGED,
    `grad_taps` is that of the merged tensor, and `grad_prior` (B, G, num_tiles) gets this tile's
    share of the gradient of `prior_scale`, instead of `grad_weights`. BLOCK channels are read at
    once; the upstream gradient stays in registers. The gradients of TAPS taps, a power of two, are
    stored together.
    """
    program = tl.program_id(0)
    picture, group = (program // num_tiles) // groups, (program // num_tiles) % groups
    at_x, at_y, inside, position = _read_tile(
        program % num_tiles, tl.cdiv(width, TILE), height, width, WIDE
    )
    step, cells = row * VECTOR, height * width
    _, grad_taps, grad_weights = starts(
        values, grad_taps, grad_weights, picture, group, groups, cells, step, C, K, MERGED
    )
    values, taps, weights = starts(
        values, taps, weights, picture, group, groups, cells, step, C, K, MERGED
    )
    grad += (picture.to(tl.int64) * cells * groups + group) * C
    prior, reach_x, reach_y = load_prior(
        prior_scale + group, reach + picture * reach_stride, MERGED
    )

    upstream = ()
    for start in tl.static_range(0, C, BLOCK):
        channel = start + tl.arange(0, BLOCK)[None, :]
        place = grad + ((position * (groups * C))[:, None] + channel)
        upstream += (tl.load(place, mask=inside[:, None] & (channel < C), other=0.0),)  # type: ignore[assignment]
    prior_total = tl.zeros((TILE * TILE,), tl.float32)
    for begun in tl.range(0, K, TAPS):
        tap = begun + tl.arange(0, TAPS)[None, :]
        slopes_x = tl.zeros((TILE * TILE, TAPS), tl.float32)
        slopes_y, samples, slopes = slopes_x, slopes_x, slopes_x
        for k in tl.range(begun, tl.minimum(begun + TAPS, K)):
            x, y, weight, bend_x, bend_y, spacing = load_tap(
                taps, weights, prior, reach_x, reach_y, position, step, inside, group, groups, k,
                K, MERGED,
            )  # fmt: skip
            touches, left, top, fx, fy = locate(
                at_x.to(tl.float32) + x, at_y.to(tl.float32) + y, inside, height, width, TRUNCATE
            )
            west, east = (touches & (left >= 0))[:, None], (touches & (left < width - 1))[:, None]
            is_north, is_south = (top >= 0)[:, None], (top < height - 1)[:, None]
            cell = (top.to(position.dtype) * width + left) * step
            below = cell + width * step
            nw = tl.zeros((TILE * TILE, BLOCK), tl.float32)
            ne, sw, se = nw, nw, nw
            for start in tl.static_range(0, C, BLOCK):
                channel = start + tl.arange(0, BLOCK)[None, :]
                real = channel < C
                piece = upstream[start // BLOCK].to(tl.float32)  # type: ignore[var-annotated]
                nw += piece * load_corner(values, cell, channel, west & is_north & real)
                ne += piece * load_corner(values, cell + step, channel, east & is_north & real)
                sw += piece * load_corner(values, below, channel, west & is_south & real)
                se += piece * load_corner(values, below + step, channel, east & is_south & real)
            dot_nw, dot_ne = tl.sum(nw, 1), tl.sum(ne, 1)
            dot_sw, dot_se = tl.sum(sw, 1), tl.sum(se, 1)
            # A weight, or an upstream gradient, is not looked at when the tap is outside.
            slope_x = weight * ((1 - fy) * (dot_ne - dot_nw) + fy * (dot_se - dot_sw))
            slope_y = weight * ((1 - fx) * (dot_sw - dot_nw) + fx * (dot_se - dot_ne))
            slope_x, slope_y = tl.where(touches, slope_x, 0.0), tl.where(touches, slope_y, 0.0)
            sample = (1 - fy) * ((1 - fx) * dot_nw + fx * dot_ne)
            sample += fy * ((1 - fx) * dot_sw + fx * dot_se)
            sample = tl.where(touches, sample, 0.0)
            own = tap == k
            if MERGED:
                slope_x, slope_y = slope_x * reach_x, slope_y * reach_y
                slope = (slope_x * bend_x + slope_y * bend_y) * (spacing * (1 - spacing))
                slopes = tl.where(own, slope[:, None], slopes)
                slope_x, slope_y = slope_x * spacing, slope_y * spacing
            slopes_x = tl.where(own, slope_x[:, None], slopes_x)
            slopes_y = tl.where(own, slope_y[:, None], slopes_y)
            samples = tl.where(own, sample[:, None], samples)
        there = inside[:, None] & (tap < K)
        both = 2 * begun + tl.arange(0, 2 * TAPS)[None, :]
        turns, twice = tl.interleave(slopes_x, slopes_y), inside[:, None] & (both < 2 * K)
        if MERGED:
            kind = grad_taps.dtype.element_ty
            heads = grad_taps + (position * step + group * K)[:, None]
            tl.store(heads + (group * K + both), turns.to(kind), twice)
            tl.store(heads + (2 * K * groups + tap), slopes.to(kind), there)
            tl.store(heads + (3 * K * groups + tap), samples.to(kind), there)
            prior_total += tl.sum(tl.where(there, slopes, 0.0), 1)
        else:
            entry = ((position * groups + group) * K)[:, None]
            tl.store(grad_taps + (2 * entry + both), turns, twice)
            tl.store(grad_weights + (entry + tap), samples, there)
    if MERGED:
        tl.store(grad_prior + program, tl.sum(prior_total, 0))


@triton.jit(do_not_specialize=RUNTIME_SIZES)
def tap_boxes(  # type: ignore[no-untyped-def]
    taps, weights, prior_scale, reach, boxes, spans,
    row, reach_stride, height, width, groups, num_tiles,
    C: tl.constexpr, K: tl.constexpr, VECTOR: tl.constexpr, TAPS: tl.constexpr,
    TRUNCATE: tl.constexpr, MERGED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Fill `boxes` (B, G, num_tiles, 4, K) and `spans` (B, G, num_tiles, 4) for `values_gradient`.

    Grid: B * G * num_tiles programs, one for each 8 x 8 tile of positions. A box holds the least
    and the greatest column, then row, of the north west cells of tap k in that tile. A span holds
    how many tiles to the left, right, top and bottom all taps together touch cells. TAPS is K
    rounded up to a power of two.
    """
    program = tl.program_id(0)
    picture, group = (program // num_tiles) // groups, (program // num_tiles) % groups
    tile, tiles_wide = program % num_tiles, tl.cdiv(width, TILE)
    at_x, at_y, inside, position = _read_tile(tile, tiles_wide, height, width, WIDE)
    step = row * VECTOR
    _, taps, weights = starts(
        weights, taps, weights, picture, group, groups, height * width, step, C, K, MERGED
    )
    prior, reach_x, reach_y = load_prior(
        prior_scale + group, reach + picture * reach_stride, MERGED
    )
    tap = tl.arange(0, TAPS)
    real_tap = inside[:, None] & (tap < K)[None, :]
    x, y, _, _, _, _ = load_tap(
        taps, weights, prior, reach_x, reach_y, position[:, None], step, real_tap, group,
        groups, tap[None, :], K, MERGED,
    )  # fmt: skip
    x, y = at_x.to(tl.float32)[:, None] + x, at_y.to(tl.float32)[:, None] + y
    touches, left, top, _, _ = locate(x, y, real_tap, height, width, TRUNCATE)
    least_x, most_x = tl.where(touches, left, FAR), tl.where(touches, left, -FAR)
    least_y, most_y = tl.where(touches, top, FAR), tl.where(touches, top, -FAR)
    least_x, most_x = tl.min(least_x, 0), tl.max(most_x, 0)
    least_y, most_y = tl.min(least_y, 0), tl.max(most_y, 0)
    box = boxes + program.to(tl.int64) * (4 * K) + tap
    tl.store(box, least_x, tap < K)
    tl.store(box + K, most_x, tap < K)
    tl.store(box + 2 * K, least_y, tap < K)
    tl.store(box + 3 * K, most_y, tap < K)
    # Cells at -1 are none, so that no number below is negative but where nothing is touched.
    tile_x, tile_y = tile % tiles_wide, tile // tiles_wide
    span = spans + program.to(tl.int64) * 4
    tl.store(span, tile_x - tl.maximum(tl.min(least_x, 0), 0) // TILE)
    tl.store(span + 1, (tl.max(most_x, 0) + 1) // TILE - tile_x)
    tl.store(span + 2, tile_y - tl.maximum(tl.min(least_y, 0), 0) // TILE)
    tl.store(span + 3, (tl.max(most_y, 0) + 1) // TILE - tile_y)


@triton.jit
def _reaches(box, first_x, first_y, real, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """Whether taps with these boxes touch the 8 x 8 cells from (first_x, first_y) on."""
    least_x = tl.load(box, mask=real, other=FAR)
    most_x = tl.load(box + K, mask=real, other=-FAR)
    least_y = tl.load(box + 2 * K, mask=real, other=FAR)
    most_y = tl.load(box + 3 * K, mask=real, other=-FAR)
    across = (least_x < first_x + TILE) & (most_x + 1 >= first_x)
    return across & (least_y < first_y + TILE) & (most_y + 1 >= first_y)


@triton.jit
def _multiply(share, upstream, total, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """`total` plus the product of shares in float32 and of what was loaded, in an arithmetic."""
    if PRECISION == "bf16x2":
        # Two bfloat16 numbers hold a share to 2^-17; their products with bfloat16 are exact.
        high = share.to(tl.bfloat16)
        low = (share - high.to(tl.float32)).to(tl.bfloat16)
        if INTERPRETED:  # it would multiply the bits of bfloat16 as whole numbers
            high, low = high.to(tl.float32), low.to(tl.float32)
            upstream = upstream.to(tl.float32)
        return tl.dot(low, upstream, tl.dot(high, upstream, total))
    else:
        if PRECISION == "tf32":
            # Rounded to nearest here, because the matrix units would cut the last bits off.
            bits = share.to(tl.int32, bitcast=True) + 0x1000
            rounded = (bits & -0x2000).to(tl.float32, bitcast=True)
            # NaN of all ones, which GPUs make, would become -0.
            share = tl.where(share == share, rounded, share)
        return tl.dot(share, upstream.to(tl.float32), total, input_precision=PRECISION)


@triton.jit(do_not_specialize=RUNTIME_SIZES)
def values_gradient(  # type: ignore[no-untyped-def]
    grad, taps, weights, prior_scale, reach, boxes, windows, grad_values,
    row, reach_stride, height, width, groups, num_tiles, num_slices,
    C: tl.constexpr, K: tl.constexpr, VECTOR: tl.constexpr, SLICE: tl.constexpr, TAPS: tl.constexpr,
    PART: tl.constexpr, PRECISION: tl.constexpr, TRUNCATE: tl.constexpr, MERGED: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """Fill `grad_values`, laid out as the values, from what `tap_boxes` found.

    Grid: B * G * num_tiles * num_slices programs, one for each 8 x 8 tile of cells and SLICE
    channels. `windows` (B, G, 4) are the greatest spans of each map, so that only tiles of
    positions that may reach the cells are looked at. PART positions are multiplied at a time, in
    the arithmetic PRECISION. A number that is not finite in `grad` or `weights` spreads over the
    cells that its tile of positions reaches.
    """
    program = tl.program_id(0)
    first = (program % num_slices) * SLICE
    own = program // num_slices
    map_, tile = own // num_tiles, own % num_tiles
    picture, group = map_ // groups, map_ % groups
    tiles_wide = tl.cdiv(width, TILE)
    tile_x, tile_y = tile % tiles_wide, tile // tiles_wide
    first_x, first_y = tile_x * TILE, tile_y * TILE
    spot = tl.arange(0, TILE * TILE)
    cell_x, cell_y = first_x + spot % TILE, first_y + spot // TILE

    step, cells = row * VECTOR, height * width
    grad_values, taps, weights = starts(
        grad_values, taps, weights, picture, group, groups, cells, step, C, K, MERGED
    )
    grad += (picture.to(tl.int64) * cells * groups + group) * C
    boxes += map_.to(tl.int64) * num_tiles * (4 * K)
    prior, reach_x, reach_y = load_prior(
        prior_scale + group, reach + picture * reach_stride, MERGED
    )
    # What touches cells n tiles to the right of itself lies n tiles to the left of them.
    window = windows + map_.to(tl.int64) * 4
    last_x = tl.minimum(tile_x + tl.load(window), tiles_wide - 1)
    first_source_x = tl.maximum(tile_x - tl.load(window + 1), 0)
    last_y = tl.minimum(tile_y + tl.load(window + 2), num_tiles // tiles_wide - 1)
    first_source_y = tl.maximum(tile_y - tl.load(window + 3), 0)

    channel = first + tl.arange(0, SLICE)[None, :]
    tap = tl.arange(0, TAPS)
    total = tl.zeros((TILE * TILE, SLICE), tl.float32)
    across = tl.maximum(last_x - first_source_x + 1, 0)
    down = tl.maximum(last_y - first_source_y + 1, 0)
    for turn in tl.range(0, across * down):
        source_x, source_y = first_source_x + turn % across, first_source_y + turn // across
        box = boxes + (source_y * tiles_wide + source_x) * (4 * K)
        if tl.max(_reaches(box + tap, first_x, first_y, tap < K, K).to(tl.int32), 0) > 0:
            for begun in tl.range(0, TILE * TILE, PART):
                part = begun + tl.arange(0, PART)
                at_x, at_y = source_x * TILE + part % TILE, source_y * TILE + part // TILE
                inside = (at_x < width) & (at_y < height)
                position = at_y * width + at_x
                if WIDE:
                    position = at_y.to(tl.int64) * width + at_x
                share = tl.zeros((TILE * TILE, PART), tl.float32)
                for k in tl.range(0, K):
                    if _reaches(box + k, first_x, first_y, k < K, K):
                        x, y, weight, _, _, _ = load_tap(
                            taps, weights, prior, reach_x, reach_y, position, step, inside,
                            group, groups, k, K, MERGED,
                        )  # fmt: skip
                        touches, left, top, fx, fy = locate(
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
                place = grad + ((position * (groups * C))[:, None] + channel)
                upstream = tl.load(place, mask=inside[:, None] & (channel < C), other=0.0)
                total = _multiply(share, upstream, total, PRECISION)
    cell = cell_y * width + cell_x
    if WIDE:
        cell = cell_y.to(tl.int64) * width + cell_x
    real = ((cell_x < width) & (cell_y < height))[:, None] & (channel < C)
    kind = grad_values.dtype.element_ty
    tl.store(grad_values + ((cell * step)[:, None] + channel), total.to(kind), real)
