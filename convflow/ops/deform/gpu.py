"""Deformable sampling on GPUs: launches the Triton kernels, and says why where it cannot.

Coordinates and sums are float32. Non-finite numbers: as on the CPU, but that one in an upstream
gradient or a weight may spread over the gradient of the values of its map.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convflow.ops.deform import reference
from convflow.ops.launch import FEATURES, aligned, usable

TILE = 8
"""Cells along one side of the squares that the backward's programs own."""
_LIMIT = 2**31
_MOST_CHANNELS = 128


def deform_sample(values: Tensor, offsets: Tensor, weights: Tensor, border: str) -> Tensor:
    """The kernel's twin of `reference.deform_sample`; float64 goes to the reference."""
    if not _serves(values, offsets):
        return reference.deform_sample(values, offsets, weights, border)
    return _forward(values, _Taps(offsets, weights), border)


def deform_sample_backward(
    grad: Tensor, values: Tensor, offsets: Tensor, weights: Tensor, border: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel's twin of `reference.deform_sample_backward`; float64 goes to the reference."""
    if not _serves(values, offsets):
        return reference.deform_sample_backward(grad, values, offsets, weights, border)
    return _backward(grad, values, _Taps(offsets, weights), border)


def msdcn_sample(
    values: Tensor, heads: Tensor, prior_scale: Tensor, reach: Tensor, border: str
) -> Tensor:
    """The kernel's twin of `reference.msdcn_sample`; float64 goes to the reference."""
    if not _serves(values, heads):
        return reference.msdcn_sample(values, heads, prior_scale, reach, border)
    return _forward(values, _Taps(heads, None, prior_scale, reach), border)


def msdcn_sample_backward(
    grad: Tensor, values: Tensor, heads: Tensor, prior_scale: Tensor, reach: Tensor, border: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel's twin of `reference.msdcn_sample_backward`; float64 goes to the reference."""
    if not _serves(values, heads):
        return reference.msdcn_sample_backward(grad, values, heads, prior_scale, reach, border)
    taps = _Taps(heads, None, prior_scale, reach)
    grad_values, grad_heads, by_tile = _backward(grad, values, taps, border)
    return grad_values, grad_heads, by_tile.sum((0, 2))


class _Taps(NamedTuple):
    """Offsets and weights, or raw heads with what turns them into both."""

    taps: Tensor
    weights: Tensor | None = None
    prior_scale: Tensor | None = None
    reach: Tensor | None = None

    @property
    def num_taps(self) -> int:
        return reference.TAPS if self.weights is None else self.weights.shape[-1]

    def arguments(self) -> tuple[Tensor, ...]:
        """What a kernel takes; what it does not look at is any tensor of a fixed dtype."""
        return tuple(aligned(self.taps if field is None else field) for field in self)

    def reach_stride(self) -> int:
        return 0 if self.reach is None or self.reach.shape[0] == 1 else 2


def _serves(values: Tensor, taps: Tensor) -> bool:
    """True if the kernels can do it: not float64, and there is something to do."""
    if values.dtype not in FEATURES or taps.dtype not in FEATURES:
        return False
    return bool(values.numel() and taps.numel()) and usable("deform_sample")


def _forward(values: Tensor, taps: _Taps, border: str) -> Tensor:
    from convflow.ops.deform import gpu_kernels

    batch, height, width, groups, channels = values.shape
    out = torch.empty_like(values, memory_format=torch.contiguous_format)
    options = _variants_for(values, taps, border)["forward"]
    vectors = height * width * (channels // options["VECTOR"])
    blocks = -(-vectors // options["LANES"])
    sizes = (taps.reach_stride(), height, width, groups, blocks)
    with torch.cuda.device_of(values):
        gpu_kernels.forward[(batch * groups * blocks,)](
            aligned(values), *taps.arguments(), out, *sizes, **options
        )
    return out


def _backward(
    grad: Tensor, values: Tensor, taps: _Taps, border: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the values and taps, and of the weights or, per tile, of the prior scale."""
    from convflow.ops.deform import gpu_kernels

    batch, height, width, groups, channels = values.shape
    tiles = -(-height // TILE) * -(-width // TILE)
    programs = (batch, groups, tiles)
    grad, values = aligned(grad), aligned(values)
    grad_values, grad_taps = (
        torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for tensor in (values, taps.taps)
    )
    last = values.new_empty(
        programs if taps.weights is None else taps.weights.shape, dtype=torch.float32
    )
    boxes = values.new_empty((*programs, 4, taps.num_taps), dtype=torch.int32)
    sizes = (taps.reach_stride(), height, width, groups, tiles)
    variants = _variants_for(values, taps, border)
    slices = -(-channels // variants["values_gradient"]["SLICE"])
    with torch.cuda.device_of(values):
        gpu_kernels.taps_gradient[(math.prod(programs),)](
            *(grad, values, *taps.arguments(), grad_taps, last, last, boxes, *sizes),
            **variants["taps_gradient"],
        )
        gpu_kernels.values_gradient[(math.prod(programs) * slices,)](
            *(grad, *taps.arguments(), boxes, grad_values, *sizes, slices),
            **variants["values_gradient"],
        )
    return grad_values, grad_taps, last


def _variants_for(values: Tensor, taps: _Taps, border: str) -> dict[str, dict[str, Any]]:
    _, height, width, groups, channels = values.shape
    numbers = height * width * groups * max(channels, 4 * taps.num_taps)
    return variants(
        values.dtype,
        channels,
        taps.num_taps,
        border,
        merged=taps.weights is None,
        wide=numbers >= _LIMIT,
        amd=torch.version.hip is not None,
    )


@cache
def variants(
    dtype: torch.dtype,
    channels: int,
    num_taps: int,
    border: str,
    *,
    merged: bool = False,
    wide: bool = False,
    amd: bool = False,
) -> dict[str, dict[str, Any]]:
    """Compile-time constants of each kernel; no size of a batch or picture is among them.

    Args:
        dtype: of the features.
        channels: C, of each group.
        num_taps: K.
        border: "zeros" or "truncate".
        merged: take raw heads instead of offsets and weights.
        wide: a picture has 2^31 numbers or more.
        amd: for AMD's GPUs: 64 threads to a warp, and matrix units that take float32 as it is.
    """
    vector = math.gcd(channels, 16 // dtype.itemsize)
    even, taps = _power_of_two(channels), _power_of_two(num_taps)
    # Half features are exact in tf32, so that only the shares are rounded, as finely as float16.
    precision = "ieee" if amd else "tf32x3" if dtype == torch.float32 else "tf32"
    shared = {"C": channels, "K": num_taps, "TRUNCATE": border == "truncate"}
    shared |= {"MERGED": merged, "WIDE": wide}
    constants: dict[str, dict[str, Any]] = {
        "forward": {"VECTOR": vector, "LANES": 128},
        # Four threads to a row: few idle ones at 72 channels, and few steps to sum over them.
        "taps_gradient": {"BLOCK": min(even, 4 * vector), "TAPS": taps},
        "values_gradient": {"SLICE": min(max(even, 16), _MOST_CHANNELS), "TAPS": taps}
        | {"PRECISION": precision},
    }
    # As many threads as there are pieces of 16 bytes; products of float32 need the registers.
    warps = {"forward": 4, "taps_gradient": 8, "values_gradient": 4}
    if dtype == torch.float32:
        warps["values_gradient"] = 8
    return {
        name: shared | constants[name] | {"num_warps": warps[name] // (2 if amd else 1)}
        for name in constants
    }


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
