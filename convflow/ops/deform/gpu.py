"""Deformable sampling on GPUs: launches the Triton kernels, and says why where it cannot.

Coordinates and sums are float32. Non-finite numbers: as on the CPU, but that one in an upstream
gradient or a weight may spread over the gradient of the values of its map, or become NaN there.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from convflow.ops.deform import reference
from convflow.ops.launch import FEATURES, NUM_PLANS, Launch, aligned, usable

TILE = 8
"""Cells along one side of the squares that the backward's programs own."""
_LIMIT = 2**31
_MOST_CHANNELS = 128
_MOST_TAPS = 16
"""Taps whose gradients are kept in registers until they are stored together."""


def deform_sample(values: Tensor, offsets: Tensor, weights: Tensor, border: str) -> Tensor:
    """The kernel's twin of `reference.deform_sample`; float64 goes to the reference."""
    if not _serves(values, offsets):
        return reference.deform_sample(values, offsets, weights, border)
    out = torch.empty_like(values, memory_format=torch.contiguous_format)
    _plan_for(values, offsets, weights, border).forward(*_tensors(values, offsets, weights), out)
    return out


def deform_sample_backward(
    grad: Tensor,
    values: Tensor,
    offsets: Tensor,
    weights: Tensor,
    border: str,
    want_values: bool = True,
    want_taps: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel's twin of `reference.deform_sample_backward`; float64 goes to the reference."""
    if not _serves(values, offsets):
        return reference.deform_sample_backward(
            grad, values, offsets, weights, border, want_values, want_taps
        )
    plan, inputs = _plan_for(values, offsets, weights, border), _tensors(values, offsets, weights)
    grad = aligned(grad)
    grad_values, grad_offsets, grad_weights = (
        torch.empty_like(tensor, memory_format=torch.contiguous_format)
        if wanted
        else tensor.new_empty(0)
        for tensor, wanted in ((values, want_values), (offsets, want_taps), (weights, want_taps))
    )
    if want_taps:
        plan.taps_gradient(grad, *inputs, grad_offsets, grad_weights, grad_weights)
    if want_values:
        _values_gradient(plan, grad, inputs, grad_values)
    return grad_values, grad_offsets, grad_weights


def deform_sample_tangent(*given: Any) -> Tensor:
    """The kernel's twin of `reference.deform_sample_tangent`; float64 goes to the reference.

    Args:
        *given: its arguments in its order.
    """
    *tensors, border = given
    values, offsets, weights, *_ = tensors
    if not _serves(values, offsets):
        return reference.deform_sample_tangent(*given)
    out = torch.empty_like(values, memory_format=torch.contiguous_format)
    launch = _plan_for(values, offsets, weights, border).tangent
    launch(*(aligned(tensor.contiguous()) for tensor in tensors), out)
    return out


def msdcn_sample(merged: Tensor, prior_scale: Tensor, reach: Tensor, border: str) -> Tensor:
    """The kernel's twin of `reference.msdcn_sample`; float64 goes to the reference."""
    if not _serves(merged, merged):
        return reference.msdcn_sample(merged, prior_scale, reach, border)
    padded, inputs, plan = _plan_merged(merged, prior_scale, reach, border)
    heads = 4 * reference.TAPS * prior_scale.shape[0]
    out = padded.new_empty((*merged.shape[:3], merged.shape[3] - heads))
    plan.forward(*inputs, out)
    return out


def msdcn_sample_backward(
    grad: Tensor, merged: Tensor, prior_scale: Tensor, reach: Tensor, border: str
) -> tuple[Tensor, Tensor]:
    """The kernel's twin of `reference.msdcn_sample_backward`; float64 goes to the reference."""
    if not _serves(merged, merged):
        return reference.msdcn_sample_backward(grad, merged, prior_scale, reach, border)
    padded, inputs, plan = _plan_merged(merged, prior_scale, reach, border)
    grad, grad_merged = aligned(grad), torch.empty_like(padded)
    by_tile = merged.new_empty(plan.programs, dtype=torch.float32)
    plan.taps_gradient(grad, *inputs, grad_merged, by_tile, by_tile)
    _values_gradient(plan, grad, inputs, grad_merged)
    return grad_merged[..., : merged.shape[-1]].contiguous(), by_tile.sum((0, 2))


def _values_gradient(
    plan: _Plan, grad: Tensor, inputs: tuple[Tensor, ...], grad_values: Tensor
) -> None:
    boxes = grad.new_empty((*plan.programs, 4, plan.num_taps), dtype=torch.int32)
    spans = grad.new_empty((*plan.programs, 4), dtype=torch.int32)
    plan.tap_boxes(*inputs[1:], boxes, spans)
    plan.values_gradient(grad, *inputs[1:], boxes, spans.amax(2), grad_values)


def _tensors(values: Tensor, offsets: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """What a kernel takes; what it does not look at is any tensor of a fixed dtype."""
    values, offsets, weights = aligned(values), aligned(offsets), aligned(weights)
    return values, offsets, weights, offsets, offsets


def _vector(dtype: torch.dtype, channels: int) -> int:
    """How many numbers are read at once."""
    return math.gcd(channels, 16 // dtype.itemsize)


def _serves(values: Tensor, taps: Tensor) -> bool:
    """True if the kernels can do it: not float64, something to do, and what 32 bits number."""
    if values.dtype not in FEATURES or taps.dtype not in FEATURES:
        return False
    counted = values.numel() and taps.numel() and values.shape[:-1].numel() < _LIMIT
    return bool(counted) and usable("deform_sample")


class _Plan(NamedTuple):
    """The launches of every kernel for one kind of call."""

    programs: tuple[int, int, int]
    """Images, groups and tiles: the programs of a backward."""
    num_taps: int
    forward: Launch
    tangent: Launch
    taps_gradient: Launch
    tap_boxes: Launch
    values_gradient: Launch


def _plan_for(values: Tensor, offsets: Tensor, weights: Tensor, border: str) -> _Plan:
    dtypes = values.dtype, offsets.dtype, weights.dtype
    shape, num_taps = values.shape, weights.shape[-1]
    return plan(dtypes, values.device, shape, shape[3] * shape[4], num_taps, border)


def _plan_merged(
    merged: Tensor, prior_scale: Tensor, reach: Tensor, border: str
) -> tuple[Tensor, tuple[Tensor, ...], _Plan]:
    """Rows padded to whole vectors, where an odd number of groups makes others; inputs, plan."""
    dtypes = merged.dtype, prior_scale.dtype, reach.dtype
    groups, reaches = prior_scale.shape[0], 1 if reach.shape[0] == 1 else 2
    missing, found = plan_merged(dtypes, merged.device, merged.shape, groups, border, reaches)
    padded = functional.pad(merged, (0, missing)) if missing else aligned(merged)
    return padded, (padded, padded, padded, aligned(prior_scale), aligned(reach)), found


@lru_cache(NUM_PLANS)
def plan_merged(
    dtypes: tuple[torch.dtype, ...],
    device: torch.device,
    shape: torch.Size,
    groups: int,
    border: str,
    reaches: int,
) -> tuple[int, _Plan]:
    """How many numbers rows of raw heads (B, H, W, .) lack, and the launches when they have them.

    Args:
        dtypes: of the heads, prior and reach.
        device: where they are.
        shape: of the merged tensor.
        groups: G.
        border: "zeros" or "truncate".
        reaches: 1 for one reach, 2 for one of each sample.
    """
    channels = shape[3] // groups - 4 * reference.TAPS
    missing = -shape[3] % _vector(dtypes[0], channels)
    sizes = torch.Size((*shape[:3], groups, channels))
    row = shape[3] + missing
    return missing, plan(dtypes, device, sizes, row, reference.TAPS, border, reaches)


@lru_cache(NUM_PLANS)
def plan(
    dtypes: tuple[torch.dtype, ...],
    device: torch.device,
    shape: torch.Size,
    row: int,
    num_taps: int,
    border: str,
    reaches: int = 0,
) -> _Plan:
    """The launches for one kind of call.

    Args:
        dtypes: of the features, and of the other tensors that differ in it.
        device: where they are, which every launch belongs to.
        shape: (B, H, W, G, C) of the values; in a merged tensor they stand at the front of a row.
        row: numbers from one cell of the values to the next.
        num_taps: K.
        border: "zeros" or "truncate".
        reaches: 0 for offsets and weights, 1 for raw heads with one reach, 2 for more of them.
    """
    from convflow.ops.deform import gpu_gradient_kernels, gpu_kernels

    batch, height, width, groups, channels = shape
    wide = height * width * max(row, groups * 2 * num_taps) >= _LIMIT
    options = variants(
        dtypes[0], channels, num_taps, border, merged=reaches > 0, wide=wide,
        amd=torch.version.hip is not None,
    )  # fmt: skip
    constants = options["forward"]
    sizes = row // constants["VECTOR"], 2 if reaches > 1 else 0, height, width, groups
    chunks = height * width * (channels // constants["VECTOR"])
    blocks = -(-(chunks // constants["PIECES"]) // constants["LANES"])
    tangents = -(-chunks // constants["LANES"])
    tiles = -(-height // TILE) * -(-width // TILE)
    programs = batch * groups * tiles
    slices = -(-channels // options["values_gradient"]["SLICE"])

    def launch(home: ModuleType, name: str, count: int, *more: int) -> Launch:
        return Launch(getattr(home, name), count, (*sizes, *more), options[name])

    return _Plan(
        (batch, groups, tiles),
        num_taps,
        launch(gpu_kernels, "forward", batch * groups * blocks, blocks),
        launch(gpu_kernels, "tangent", batch * groups * tangents, tangents),
        launch(gpu_gradient_kernels, "taps_gradient", programs, tiles),
        launch(gpu_gradient_kernels, "tap_boxes", programs, tiles),
        launch(gpu_gradient_kernels, "values_gradient", programs * slices, tiles, slices),
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
    chunks = channels // vector
    even, taps = _power_of_two(channels), _power_of_two(num_taps)
    # Half features are exact in tf32, so that only the shares are rounded, as finely as float16.
    # Shares have the range of bfloat16, but not of float16.
    precisions = {torch.float32: "tf32x3", torch.float16: "tf32", torch.bfloat16: "bf16x2"}
    pieces = (1,) if amd and dtype == torch.float32 else (3, 2, 1)  # more spill on gfx942
    precision = "ieee" if amd and dtype != torch.bfloat16 else precisions[dtype]
    # Converted half features need registers, too.
    block = _MOST_TAPS // (1 if dtype == torch.float32 else 2)
    part = TILE**2 // (2 if dtype == torch.float32 else 1)  # its products need the registers
    shared = {"C": channels, "K": num_taps, "VECTOR": vector, "TRUNCATE": border == "truncate"}
    shared |= {"MERGED": merged, "WIDE": wide}
    constants: dict[str, dict[str, Any]] = {
        # A lane locates its taps once for all of its pieces.
        "forward": {"LANES": 128, "PIECES": next(n for n in pieces if chunks % n == 0)},
        "tangent": {"LANES": 128},
        # Four threads to a row: few idle ones at 72 channels, and few steps to sum over them.
        "taps_gradient": {
            "BLOCK": min(even, 4 * vector),
            "TAPS": taps if taps <= _MOST_TAPS else block,
        },
        "tap_boxes": {"TAPS": taps},
        "values_gradient": {"SLICE": min(max(even, 16), _MOST_CHANNELS), "TAPS": taps}
        | {"PART": part, "PRECISION": precision},
    }
    # As many threads as there are pieces of 16 bytes; products of float32 need the registers.
    warps = {"forward": 4, "tangent": 4, "taps_gradient": 8, "tap_boxes": 4, "values_gradient": 4}
    if dtype == torch.float32:
        warps["values_gradient"] = 8
    if not amd and dtype != torch.float32 and even > _MOST_CHANNELS // 2:
        constants["values_gradient"] |= {"maxnreg": 168}  # three programs on a multiprocessor
    return {
        name: shared
        | constants[name]
        | {"num_warps": warps[name] // (2 if amd else 1), "enable_fp_fusion": True}
        for name in constants
    }


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
