"""Depthwise convolution as Triton kernels: the sums, and the gradients of weights and biases.

A lane is VECTOR channels of a strip: STRIP positions one below the other. For one column of the
kernel it reads every row around the strip once and uses it for all taps of that column. Lanes of a
program are neighbours, so that most of what they read is in the first-level cache. Tensors are
counted in chunks of VECTOR channels; batch, height, width and channels are run-time numbers.

Only `gpu.py` imports this file, because importing it imports Triton.
"""

from __future__ import annotations

import triton
import triton.language as tl

CHUNKS = tl.constexpr(4)
"""Lanes side by side along channels: 64 bytes where channels come in pieces of 16."""

_SIZES = ["num_strips", "height", "width", "chunks", "num_blocks", "num_columns", "num_steps"]


@triton.jit
def _place(  # type: ignore[no-untyped-def]
    strip, chunk, num_strips, height, width, chunks, STRIP: tl.constexpr
):
    """Row and column of the strip's top, the chunk there, and whether there is such a strip."""
    tall = tl.cdiv(height, STRIP)
    column, level = strip % width, strip // width
    top = level % tall * STRIP
    first = ((level // tall * height + top) * width + column) * chunks + chunk
    return top, column, first, (strip < num_strips) & (chunk < chunks)


@triton.jit
def _numbers(chunk, VECTOR: tl.constexpr):  # type: ignore[no-untyped-def]
    """Places of the numbers in each lane's chunk."""
    return chunk[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]


@triton.jit
def _load(source, offset, real, other):  # type: ignore[no-untyped-def]
    return tl.load(source + offset, mask=real[:, None], other=other).to(tl.float32)


@triton.jit
def _put(totals, index: tl.constexpr, total):  # type: ignore[no-untyped-def]
    """The tuple with another entry in one place."""
    return totals[:index] + (total,) + totals[index + 1 :]  # noqa: RUF005


@triton.jit(do_not_specialize=_SIZES)
def forward(  # type: ignore[no-untyped-def]
    x,
    weight,
    bias,
    out,
    num_strips,
    height,
    width,
    chunks,
    num_blocks,
    num_columns,
    K: tl.constexpr,
    VECTOR: tl.constexpr,
    STRIP: tl.constexpr,
    LANES: tl.constexpr,
    TURNED: tl.constexpr,
    BIASED: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Fill `out` (B, H, W, C) from `x`; with the kernel TURNED around, the gradient of `x`.

    Grid: num_blocks programs, one for each CHUNKS chunks of channels, for every LANES / CHUNKS
    strips. `weight` (C, K, K) and, if BIASED, `bias` (C) are float32. num_columns is K, as a
    number that no compiler unrolls a loop by. WIDE: a tensor has 2^31 numbers or more.
    """
    program = tl.program_id(0)
    lane = tl.arange(0, LANES)
    strip = program // num_blocks * (LANES // CHUNKS) + lane // CHUNKS
    if WIDE:
        strip, chunks = strip.to(tl.int64), chunks.to(tl.int64)
    chunk = program % num_blocks * CHUNKS + lane % CHUNKS
    top, column, first, real = _place(strip, chunk, num_strips, height, width, chunks, STRIP)

    right = chunks * VECTOR
    below = width * right
    x += _numbers(first, VECTOR)
    out += _numbers(first, VECTOR)
    some = tl.minimum(chunk, chunks - 1)
    # In two steps, so that places differ by constants.
    weight += (some * (VECTOR * K * K))[:, None]
    weight += tl.arange(0, VECTOR)[None, :] * (K * K)
    totals = (tl.zeros((LANES, VECTOR), tl.float32),) * STRIP
    if BIASED:
        totals = (tl.load(bias + _numbers(some, VECTOR)),) * STRIP
    for j in tl.range(0, num_columns):
        weights = ()
        for i in tl.static_range(K):
            tap = K * K - 1 - (i * K + j) if TURNED else i * K + j
            weights += (tl.load(weight + tap),)  # type: ignore[assignment]
        beside = column + j - K // 2
        there = real & (beside >= 0) & (beside < width)
        for r in tl.static_range(STRIP + K - 1):
            row = top + (r - K // 2)
            step = (r - K // 2) * below + (j - K // 2) * right
            value = _load(x, step, there & (row >= 0) & (row < height), 0.0)
            for s in tl.static_range(max(0, r - K + 1), min(STRIP, r + 1)):
                totals = _put(totals, s, totals[s] + value * weights[r - s])
    for s in tl.static_range(STRIP):
        inside = (real & (top + s < height))[:, None]
        tl.store(out + s * below, totals[s].to(out.dtype.element_ty), inside)


@triton.jit(do_not_specialize=_SIZES)
def taps_gradient(  # type: ignore[no-untyped-def]
    grad,
    x,
    sums,
    num_strips,
    height,
    width,
    chunks,
    num_blocks,
    num_steps,
    K: tl.constexpr,
    VECTOR: tl.constexpr,
    STRIP: tl.constexpr,
    LANES: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Fill `sums` (slabs, K, K + 1, C) with each slab's share of the gradients, in float32.

    Grid: num_blocks programs for each slab of num_steps * GROUPS strips. Lanes share the kernel's
    columns among them, so that each needs K sums and all read the same rows at a time. The last
    column is that of the bias: what it multiplies `grad` with is 1. COLUMNS is K + 1 rounded up to
    a power of two.
    """
    GROUPS: tl.constexpr = LANES // (COLUMNS * CHUNKS)
    program = tl.program_id(0)
    slab, block = program // num_blocks, program % num_blocks * CHUNKS
    if WIDE:
        chunks = chunks.to(tl.int64)
    lane = tl.arange(0, LANES)
    chunk, j = block + lane % CHUNKS, lane // CHUNKS % COLUMNS
    group = lane // (COLUMNS * CHUNKS)

    right = chunks * VECTOR
    below = width * right
    one = tl.where(j == K, 1.0, 0.0).to(x.dtype.element_ty)[:, None]
    totals = (tl.zeros((LANES, VECTOR), tl.float32),) * K
    for step in tl.range(0, num_steps):
        strip = (slab * num_steps + step) * GROUPS + group
        if WIDE:
            strip = strip.to(tl.int64)
        top, column, first, real = _place(strip, chunk, num_strips, height, width, chunks, STRIP)
        place = _numbers(first, VECTOR)
        upstream = ()
        for s in tl.static_range(STRIP):
            value = _load(grad + place, s * below, real & (top + s < height), 0.0)
            upstream += (value,)  # type: ignore[assignment]
        beside = column + j - K // 2
        there = real & (j < K) & (beside >= 0) & (beside < width)
        place += ((j - K // 2) * right)[:, None]
        for r in tl.static_range(STRIP + K - 1):
            row = top + (r - K // 2)
            inside = there & (row >= 0) & (row < height)
            value = _load(x + place, (r - K // 2) * below, inside, one)
            for s in tl.static_range(max(0, r - K + 1), min(STRIP, r + 1)):
                total = totals[r - s] + value * upstream[s]
                # Nothing times an infinity would be NaN.
                beneath = (top + s < height)[:, None]
                totals = _put(totals, r - s, tl.where(beneath, total, totals[r - s]))

    spot = tl.arange(0, COLUMNS * CHUNKS)
    chunk, j = block + spot % CHUNKS, spot // CHUNKS
    real = ((j <= K) & (chunk < chunks))[:, None]
    for i in tl.static_range(K):
        total = tl.sum(tl.reshape(totals[i], (GROUPS, COLUMNS * CHUNKS, VECTOR)), 0)
        row = (slab * K + i) * (K + 1) + j
        tl.store(sums + _numbers(row * chunks + chunk, VECTOR), total, real)
