"""Depthwise convolution on GPUs: launches the Triton kernels."""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from convflow.ops.depthwise import reference
from convflow.ops.launch import FEATURES, NUM_PLANS, Launch, aligned, usable

CHUNKS = 4
"""Lanes side by side along channels, as in `gpu_kernels`."""
_LANES = 128
_LIMIT = 2**31
_PROGRAMS = 8192
"""At most, times columns, of the weights' gradient: a few for each that a large GPU runs at a time,
and fewer where each leaves more sums behind."""
_SUMS, _KEPT = 32, 104
"""Numbers that a lane forms at once in the forward, and that it keeps for the weights' gradient:
with more of them a lane takes shorter strips, so that there are registers for many lanes."""


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The kernel's twin of `reference.depthwise_conv`; float64 goes to the reference."""
    if not _serves(x):
        return reference.depthwise_conv(x, weight, bias)
    return _forward(x, weight, bias)


def depthwise_conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, want_x: bool = True, want_weight: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel's twin of `reference.depthwise_conv_backward`; float64 goes to the reference."""
    if not _serves(x):
        return reference.depthwise_conv_backward(grad, x, weight, want_x, want_weight)
    grad_x = _forward(grad, weight, None, turned=True) if want_x else x.new_empty(0)
    if not want_weight:
        return grad_x, weight.new_empty(0), weight.new_empty(0)
    return grad_x, *_taps_gradient(grad, x, weight)


def _serves(x: Tensor) -> bool:
    """True if the kernels can do it: not float64, something to do, and what 32 bits number."""
    counted = x.numel() > 0 and x.shape[:-1].numel() < _LIMIT
    return x.dtype in FEATURES and counted and usable("depthwise_conv")


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, turned: bool = False) -> Tensor:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    added = weight if bias is None else bias
    launch = forward_launch(
        x.dtype, x.device, x.shape, weight.shape[-1], turned=turned, biased=bias is not None
    )
    launch(aligned(x), aligned(weight), aligned(added), out)
    return out


def _taps_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    channels, _, side, _ = weight.shape
    num_slabs, launch = taps_gradient_launch(x.dtype, x.device, x.shape, side)
    sums = x.new_empty(num_slabs, side, side + 1, channels, dtype=torch.float32)
    launch(aligned(grad), aligned(x), sums)
    total = sums.sum(0).to(weight.dtype)
    # A copy: two results of an operator may not share memory, as they would for one tap.
    return total[:, :side].permute(2, 0, 1).reshape(weight.shape).contiguous(), total[
        0, side
    ].clone()


@lru_cache(NUM_PLANS)
def forward_launch(
    dtype: torch.dtype,
    device: torch.device,
    shape: torch.Size,
    side: int,
    *,
    turned: bool,
    biased: bool,
) -> Launch:
    """The launch on a device of the sums of features (B, H, W, C), or with the kernel turned."""
    from convflow.ops.depthwise import gpu_kernels

    options = _variants_for(dtype, shape, side)["forward"] | {"TURNED": turned, "BIASED": biased}
    num_strips, num_blocks, sizes = _sizes(shape, options)
    programs = num_blocks * -(-num_strips * CHUNKS // _LANES)
    return Launch(gpu_kernels.forward, programs, (*sizes, side), options)


@lru_cache(NUM_PLANS)
def taps_gradient_launch(
    dtype: torch.dtype, device: torch.device, shape: torch.Size, side: int
) -> tuple[int, Launch]:
    """How many slabs of sums the weights' gradient of features (B, H, W, C) has, and its launch."""
    from convflow.ops.depthwise import gpu_kernels

    options = _variants_for(dtype, shape, side)["taps_gradient"]
    num_strips, num_blocks, sizes = _sizes(shape, options)
    steps = -(-num_strips * CHUNKS * options["COLUMNS"] // _LANES)  # of one program alone
    most_slabs = max(1, _PROGRAMS // (options["COLUMNS"] * num_blocks))
    num_steps = -(-steps // most_slabs)
    num_slabs = -(-steps // num_steps)
    programs = num_slabs * num_blocks
    return num_slabs, Launch(gpu_kernels.taps_gradient, programs, (*sizes, num_steps), options)


def _sizes(shape: torch.Size, options: dict[str, Any]) -> tuple[int, int, tuple[int, ...]]:
    """Numbers of strips and of blocks of channels, and what both kernels are told of sizes."""
    batch, height, width, channels = shape
    num_strips = batch * -(-height // options["STRIP"]) * width
    chunks = channels // options["VECTOR"]
    num_blocks = -(-chunks // CHUNKS)
    return num_strips, num_blocks, (num_strips, height, width, chunks, num_blocks)


def _variants_for(dtype: torch.dtype, shape: torch.Size, side: int) -> dict[str, dict[str, Any]]:
    wide = shape.numel() >= _LIMIT
    return variants(dtype, shape[3], side, wide=wide, amd=torch.version.hip is not None)


@cache
def variants(
    dtype: torch.dtype, channels: int, side: int, *, wide: bool = False, amd: bool = False
) -> dict[str, dict[str, Any]]:
    """Compile-time constants of each kernel; no size of a batch or image is among them.

    Args:
        dtype: of the features.
        channels: C, of which only the largest power of two that divides it counts, up to 16 bytes.
        side: k.
        wide: a tensor has 2^31 numbers or more.
        amd: for AMD's GPUs: 64 threads to a warp.
    """
    vector = math.gcd(channels, 16 // dtype.itemsize)
    shared = {"K": side, "VECTOR": vector, "LANES": _LANES, "WIDE": wide}
    shared |= {"num_warps": 2 if amd else 4, "enable_fp_fusion": True}
    return {
        "forward": shared | {"STRIP": min(8, _SUMS // vector)},
        "taps_gradient": shared
        | {"STRIP": 8 if (side + 8) * vector <= _KEPT else 4, "COLUMNS": 1 << side.bit_length()},
    }
