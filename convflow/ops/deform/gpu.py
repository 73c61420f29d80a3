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
from torch.nn import functional

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
    return _forward(_Inputs(values, values.shape, offsets, weights), border)


def deform_sample_backward(
    grad: Tensor, values: Tensor, offsets: Tensor, weights: Tensor, border: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel's twin of `reference.deform_sample_backward`; float64 goes to the reference."""
    if not _serves(values, offsets):
        return reference.deform_sample_backward(grad, values, offsets, weights, border)
    grad_values, grad_offsets, grad_weights = (
        torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for tensor in (values, offsets, weights)
    )
    inputs = _Inputs(values, values.shape, offsets, weights)
    _backward(grad, inputs, border, grad_values, grad_offsets, grad_weights)
    return grad_values, grad_offsets, grad_weights


def msdcn_sample(merged: Tensor, prior_scale: Tensor, reach: Tensor, border: str) -> Tensor:
    """The kernel's twin of `reference.msdcn_sample`; float64 goes to the reference."""
    if not _serves(merged, merged):
        return reference.msdcn_sample(merged, prior_scale, reach, border)
    return _forward(_merged_inputs(merged, prior_scale, reach), border).flatten(3)


def msdcn_sample_backward(
    grad: Tensor, merged: Tensor, prior_scale: Tensor, reach: Tensor, border: str
) -> tuple[Tensor, Tensor]:
    """The kernel's twin of `reference.msdcn_sample_backward`; float64 goes to the reference."""
    if not _serves(merged, merged):
        return reference.msdcn_sample_backward(grad, merged, prior_scale, reach, border)
    inputs = _merged_inputs(merged, prior_scale, reach)
    grad_merged = torch.empty_like(inputs.values)
    by_tile = merged.new_empty(inputs.programs, dtype=torch.float32)
    _backward(grad, inputs, border, grad_merged, grad_merged, by_tile)
    return grad_merged[..., : merged.shape[-1]].contiguous(), by_tile.sum((0, 2))


class _Inputs(NamedTuple):
    """Values with offsets and weights, or one merged tensor with what makes both of its heads."""

    values: Tensor
    shape: tuple[int, ...]
    """(B, H, W, G, C) of the values; in a merged tensor they stand at the front of a row."""
    taps: Tensor
    weights: Tensor | None = None
    prior_scale: Tensor | None = None
    reach: Tensor | None = None

    @property
    def num_taps(self) -> int:
        return reference.TAPS if self.weights is None else self.weights.shape[-1]

    @property
    def row(self) -> int:
        """Numbers from one cell of the values to the next."""
        return math.prod(self.shape[3:]) if self.weights is not None else self.values.shape[-1]

    @property
    def programs(self) -> tuple[int, int, int]:
        """Images, groups and tiles: the programs of a backward."""
        batch, height, width, groups, _ = self.shape
        return batch, groups, -(-height // TILE) * -(-width // TILE)

    def tensors(self) -> tuple[Tensor, ...]:
        """What a kernel takes; what it does not look at is any tensor of a fixed dtype."""
        fields = self.values, self.taps, self.weights, self.prior_scale, self.reach
        return tuple(aligned(self.taps if field is None else field) for field in fields)

    def sizes(self, vector: int) -> tuple[int, ...]:
        """The numbers that every kernel takes."""
        shared = self.reach is None or self.reach.shape[0] == 1
        return self.row // vector, 0 if shared else 2, *self.shape[1:4]


def _merged_inputs(merged: Tensor, prior_scale: Tensor, reach: Tensor) -> _Inputs:
    """Inputs with rows of whole vectors: padded where an odd number of groups makes others."""
    groups = prior_scale.shape[0]
    channels = merged.shape[-1] // groups - 4 * reference.TAPS
    shape = (*merged.shape[:3], groups, channels)
    missing = -merged.shape[-1] % _vector(merged.dtype, channels)
    merged = functional.pad(merged, (0, missing)) if missing else merged
    return _Inputs(merged, shape, merged, None, prior_scale, reach)


def _vector(dtype: torch.dtype, channels: int) -> int:
    """How many numbers are read at once."""
    return math.gcd(channels, 16 // dtype.itemsize)


def _serves(values: Tensor, taps: Tensor) -> bool:
    """True if the kernels can do it: not float64, something to do, and what 32 bits number."""
    if values.dtype not in FEATURES or taps.dtype not in FEATURES:
        return False
    counted = values.numel() and taps.numel() and values.shape[:-1].numel() < _LIMIT
    return bool(counted) and usable("deform_sample")


def _forward(inputs: _Inputs, border: str) -> Tensor:
    from convflow.ops.deform import gpu_kernels

    batch, height, width, groups, channels = inputs.shape
    out = inputs.values.new_empty(inputs.shape)
    options = _variants_for(inputs, border)["forward"]
    vectors = height * width * (channels // options["VECTOR"])
    blocks = -(-vectors // options["LANES"])
    with torch.cuda.device_of(out):
        gpu_kernels.forward[(batch * groups * blocks,)](
            *inputs.tensors(), out, *inputs.sizes(options["VECTOR"]), blocks, **options
        )
    return out


def _backward(
    grad: Tensor,
    inputs: _Inputs,
    border: str,
    grad_values: Tensor,
    grad_taps: Tensor,
    last: Tensor,
) -> None:
    """Fill the gradients, the last of which is that of the weights or, by tile, of the prior."""
    from convflow.ops.deform import gpu_kernels

    grad, (values, *taps) = aligned(grad), inputs.tensors()
    boxes = grad.new_empty((*inputs.programs, 4, inputs.num_taps), dtype=torch.int32)
    variants = _variants_for(inputs, border)
    tiles, programs = inputs.programs[-1], math.prod(inputs.programs)
    sizes = inputs.sizes(variants["taps_gradient"]["VECTOR"])
    slices = -(-inputs.shape[-1] // variants["values_gradient"]["SLICE"])
    with torch.cuda.device_of(grad):
        gpu_kernels.taps_gradient[(programs,)](
            *(grad, values, *taps, grad_taps, last, last, boxes, *sizes, tiles),
            **variants["taps_gradient"],
        )
        gpu_kernels.values_gradient[(programs * slices,)](
            *(grad, *taps, boxes, grad_values, *sizes, tiles, slices),
            **variants["values_gradient"],
        )


def _variants_for(inputs: _Inputs, border: str) -> dict[str, dict[str, Any]]:
    _, height, width, groups, channels = inputs.shape
    longest = max(inputs.row, groups * 2 * inputs.num_taps)
    return variants(
        inputs.values.dtype,
        channels,
        inputs.num_taps,
        border,
        merged=inputs.weights is None,
        wide=height * width * longest >= _LIMIT,
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
    """Compile-time constants of each kernel; no size of a batch or image is among them.

    Args:
        dtype: of the features.
        channels: C, of each group.
        num_taps: K.
        border: "zeros" or "truncate".
        merged: take values and raw heads from one tensor instead of offsets and weights.
        wide: an image has 2^31 numbers or more.
        amd: for AMD's GPUs: 64 threads to a warp, and matrix units that take float32 as it is.
    """
    vector = _vector(dtype, channels)
    even, taps = _power_of_two(channels), _power_of_two(num_taps)
    # Half features are exact in tf32, so that only the shares are rounded, as finely as float16.
    precision = "ieee" if amd else "tf32x3" if dtype == torch.float32 else "tf32"
    part = TILE**2 // (2 if dtype == torch.float32 else 1)  # its products need the registers
    shared = {"C": channels, "K": num_taps, "VECTOR": vector, "TRUNCATE": border == "truncate"}
    shared |= {"MERGED": merged, "WIDE": wide}
    constants: dict[str, dict[str, Any]] = {
        "forward": {"LANES": 128},
        # Four threads to a row: few idle ones at 72 channels, and few steps to sum over them.
        "taps_gradient": {"BLOCK": min(even, 4 * vector), "TAPS": taps},
        "values_gradient": {"SLICE": min(max(even, 16), _MOST_CHANNELS), "TAPS": taps}
        | {"PART": part, "PRECISION": precision},
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
