"""The plain Triton scheme that ours is measured against: one program for each position and group.

As the notes on the published kernels describe them (Wang et al. 2024): a block of channels per
program, sizes compiled in, and atomic additions for the gradient of the values. Not their code.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _corner(pointer, x, y, channel, H: tl.constexpr, W: tl.constexpr, G: tl.constexpr, C: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    there = (x >= 0) & (x < W) & (y >= 0) & (y < H)
    return pointer + (y * W + x) * (G * C) + channel, (channel < C) & (there != 0)


@triton.jit
def _forward(values, offsets, weights, out, H: tl.constexpr, W: tl.constexpr, G: tl.constexpr, C: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    program = tl.program_id(0)
    group, spot, picture = program % G, program // G % (H * W), program // (G * H * W)
    channel = tl.arange(0, BLOCK)
    values += picture * (H * W * G * C) + group * C
    total = tl.zeros((BLOCK,), tl.float32)
    for k in range(K):
        tap = program * K + k
        x = spot % W + tl.load(offsets + 2 * tap)
        y = spot // W + tl.load(offsets + 2 * tap + 1)
        left, top = tl.floor(x), tl.floor(y)
        for corner in tl.static_range(4):
            at_x, at_y = left + corner % 2, top + corner // 2
            share = (1 - tl.abs(x - at_x)) * (1 - tl.abs(y - at_y)) * tl.load(weights + tap)
            where, mask = _corner(values, at_x.to(tl.int32), at_y.to(tl.int32), channel, H, W, G, C)
            total += share * tl.load(where, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + program * C + channel, total.to(out.dtype.element_ty), channel < C)


@triton.jit
def _backward(grad, values, offsets, weights, grad_values, grad_offsets, grad_weights, H: tl.constexpr, W: tl.constexpr, G: tl.constexpr, C: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    program = tl.program_id(0)
    group, spot, picture = program % G, program // G % (H * W), program // (G * H * W)
    channel = tl.arange(0, BLOCK)
    start = picture * (H * W * G * C) + group * C
    upstream = tl.load(grad + program * C + channel, mask=channel < C, other=0.0).to(tl.float32)
    for k in range(K):
        tap = program * K + k
        x = spot % W + tl.load(offsets + 2 * tap)
        y = spot // W + tl.load(offsets + 2 * tap + 1)
        weight = tl.load(weights + tap)
        left, top = tl.floor(x), tl.floor(y)
        slope_x, slope_y, sample = 0.0, 0.0, 0.0
        for corner in tl.static_range(4):
            at_x, at_y = left + corner % 2, top + corner // 2
            share_x, share_y = 1 - tl.abs(x - at_x), 1 - tl.abs(y - at_y)
            where, mask = _corner(start, at_x.to(tl.int32), at_y.to(tl.int32), channel, H, W, G, C)
            row = tl.load(values + where, mask=mask, other=0.0).to(tl.float32)
            tl.atomic_add(grad_values + where, weight * share_x * share_y * upstream, mask=mask)
            dot = tl.sum(row * upstream, 0)
            slope_x += (2 * (corner % 2) - 1) * share_y * dot
            slope_y += (2 * (corner // 2) - 1) * share_x * dot
            sample += share_x * share_y * dot
        tl.store(grad_offsets + 2 * tap, weight * slope_x)
        tl.store(grad_offsets + 2 * tap + 1, weight * slope_y)
        tl.store(grad_weights + tap, sample)


class _Scheme(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(values, offsets, weights)
        out = torch.empty_like(values)
        _forward[(weights[..., 0].numel(),)](values, offsets, weights, out, **_sizes(weights, out))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        inputs = ctx.saved_tensors
        values, offsets, weights = inputs
        grads = (
            torch.zeros_like(values, dtype=torch.float32),
            *map(torch.empty_like, (offsets, weights)),
        )
        sizes = _sizes(weights, values)
        _backward[(weights[..., 0].numel(),)](grad.contiguous(), *inputs, *grads, **sizes)
        return grads[0].to(values.dtype), grads[1], grads[2]


def _sizes(weights: Tensor, values: Tensor) -> dict[str, int]:
    _, height, width, groups, channels = values.shape
    sizes = {"H": height, "W": width, "G": groups, "C": channels, "K": weights.shape[-1]}
    return sizes | {"BLOCK": triton.next_power_of_2(channels)}


def scheme(values: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """`deform_sample` with border "zeros", by the plain scheme, with gradients."""
    return _Scheme.apply(values, offsets, weights)


@triton.jit
def _read(block, out, num_blocks, turns, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    program = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for turn in range(turns):
        piece = (program + turn) % num_blocks
        total += tl.load(block + piece * BLOCK + lane, cache_modifier=".cg")
    tl.store(out + program * BLOCK + lane, total)


def read_block(block: Tensor, turns: int) -> None:
    """Read a block of float32 `turns` times, past the first-level cache."""
    size = 2048
    pieces = block.numel() // size
    _read[(pieces,)](block, torch.empty_like(block), pieces, turns, BLOCK=size)
