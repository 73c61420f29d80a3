"""`deform_sample` and `msdcn_sample`: the operators, their registration and their gradients.

FlowDCN (Wang et al., NeurIPS 2024, arXiv 2410.22655), section 3. Forward and backward are two
registered operators each; the reference serves every device that has no kernel of its own.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from convflow.ops.deform import cpu, exported, gpu, reference
from convflow.ops.inputs import check_operands, has_tangents_only, is_transformed
from convflow.ops.launch import FEATURES, find_triton
from convflow.ops.register import register
from convflow.ops.threads import find_numba
from convflow.types import InputError

Border = Literal["zeros", "truncate"]

LONGEST = 2**24
"""The largest height or width of a map where coordinates are float32: more lose whole cells."""


def deform_sample(
    values: Float[Tensor, "B H W G C"],
    offsets: Float[Tensor, "B H W G K 2"],
    weights: Float[Tensor, "B H W G K"],
    border: Border = "zeros",
) -> Float[Tensor, "B H W G C"]:
    """Sum of K bilinear samples around every position, each group with its own taps.

    out[p] = sum over k of weights[p, k] * bilinear(values, p + offsets[p, k]), zero outside.

    Args:
        values: features, any floating dtype; G groups of C channels each.
        offsets: displacement of each tap as (x, y), in cells; any number, also beyond the map.
            NaN and infinite offsets count as outside.
        weights: one factor per tap, not normalised; not looked at where the tap is outside.
        border: "zeros" fades to zero over the last cell, as `grid_sample` does with its padding
            "zeros" and `align_corners=False`. "truncate" rounds toward zero instead of down and
            so extrapolates in (-2, 0): what published FlowDCN weights were trained with.

    Returns:
        The sums, contiguous, in the dtype of `values`. Coordinates and sums are float32 whatever
        that dtype is, under autocast too; float64 values are computed in float64 throughout.

    Raises:
        InputError: if ranks, sizes, dtypes or devices do not fit together, or `border` is unknown.

    Examples:
        >>> values = torch.randn(2, 16, 16, 6, 64)
        >>> offsets, weights = torch.randn(2, 16, 16, 6, 9, 2), torch.rand(2, 16, 16, 6, 9)
        >>> deform_sample(values, offsets, weights).shape
        torch.Size([2, 16, 16, 6, 64])

    Reverse mode differentiates once. Forward mode (`torch.autograd.forward_ad`) without gradients
    has a kernel too. With them, and inside `torch.func` transforms (`jvp`, `grad`), the reference
    runs, slower but composed of operators that know how; and `torch.export` takes it along (see
    `convflow.ops.deform.exported`), so that an exported program needs no operator of ours.
    """
    _check(values, offsets, weights, border)
    dtype = torch.float64 if values.dtype == torch.float64 else torch.float32
    values, offsets, weights = (
        values.contiguous(),
        offsets.to(dtype).contiguous(),
        weights.to(dtype).contiguous(),
    )
    if torch.compiler.is_exporting():
        return exported.deform_sample(values, offsets, weights, border)
    if is_transformed(values, offsets, weights):
        if not has_tangents_only(values, offsets, weights):
            return reference.deform_sample(values, offsets, weights, border)
        out: Tensor = _Pushed.apply(values, offsets, weights, border)
        return out
    return _sample(values, offsets, weights, border)


def msdcn_sample(
    merged: Float[Tensor, "B H W merged"],
    prior_scale: Float[Tensor, " G"],
    reach: Float[Tensor, "N 2"],
    border: Border = "zeros",
) -> Float[Tensor, "B H W D"]:
    """Deformable sampling of values at nine taps, both as one linear layer tells them.

    `deform_sample` at offsets `(direction + grid) * sigmoid(scale + prior_scale) * reach`, where
    the grid is 3 x 3. On devices with a kernel for it no offsets are written to memory.

    Args:
        merged: for each position D = G x C values, then G x 36 raw heads: G x 9 x 2 directions
            (x, y), G x 9 scales and G x 9 weights.
        prior_scale: added to the scales of each group.
        reach: S_max (x, y) in cells, one row for all samples or one for each of B. Where it needs
            a gradient, offsets are written after all.
        border: as of `deform_sample`.

    Returns:
        The sums, contiguous, in the dtype of `merged`; computed as `deform_sample` does.

    Raises:
        InputError: if ranks, sizes, dtypes or devices do not fit together, or `border` is unknown.
    """
    _check_merged(merged, prior_scale, reach, border)
    dtype = torch.float64 if merged.dtype == torch.float64 else torch.float32
    prior_scale, reach = prior_scale.to(dtype).contiguous(), reach.to(dtype).contiguous()
    plain = torch.compiler.is_exporting() or (reach.requires_grad and torch.is_grad_enabled())
    if plain or not fuses(merged) or is_transformed(merged, prior_scale, reach):
        values, bend, spacing, weights = reference.read_merged(merged, prior_scale)
        offsets = reference.place_taps(bend, spacing, reach[:, None, None, None, None])
        return deform_sample(values, offsets, weights, border).flatten(3)
    return _msdcn(merged.contiguous(), prior_scale, reach, border)


def fuses(values: Tensor) -> bool:
    """Whether `msdcn_sample` of features like these has a kernel that needs no offsets.

    Where Triton is missing, its reference serves as that of `deform_sample` would.
    """
    return values.device.type == "cuda" and values.dtype in FEATURES


def active_backend(device_type: str) -> str:
    """Name of what runs `deform_sample` on a type of device: "numba", "triton" or "reference"."""
    return backend_and_reason(device_type)[0]


def backend_and_reason(device_type: str) -> tuple[str, str]:
    """Name of what runs `deform_sample` on a type of device, and why, in words for a person."""
    if device_type == "cpu":
        numba, reason = find_numba()
        return ("reference" if numba is None else "numba"), reason
    if device_type == "cuda":
        triton, reason = find_triton()
        return ("reference" if triton is None else "triton"), reason
    return "reference", f"there is no kernel for {device_type}"


def _check_border(border: str) -> None:
    if border not in ("zeros", "truncate"):
        raise InputError(f'border: expected "zeros" or "truncate", got {border!r}')


def _check_values(values: Tensor) -> None:
    if values.ndim != 5:
        raise InputError(
            f"values: expected 5 dimensions (B, H, W, G, C), got {tuple(values.shape)}; "
            "split the channels into groups first"
        )


def _check_sides(name: str, tensor: Tensor) -> None:
    height, width = tensor.shape[1:3]
    if max(height, width) > LONGEST and tensor.dtype != torch.float64:
        raise InputError(
            f"{name}: expected a height and width of at most {LONGEST}, got {height}x{width}, "
            "where float32 coordinates lose whole cells; give float64 or cut the map"
        )


def _check(values: Tensor, offsets: Tensor, weights: Tensor, border: str) -> None:
    _check_border(border)
    _check_values(values)
    taps = weights.shape[-1] if weights.ndim else 0
    for name, tensor, expected in (
        ("weights", weights, (*values.shape[:4], taps)),
        ("offsets", offsets, (*values.shape[:4], taps, 2)),
    ):
        if tuple(tensor.shape) != expected:
            raise InputError(
                f"{name}: expected shape {expected} to fit values {tuple(values.shape)} and "
                f"weights {tuple(weights.shape)}, got {tuple(tensor.shape)}; "
                "give one entry per position, group and tap"
            )
    check_operands(values=values, offsets=offsets, weights=weights)
    _check_sides("values", values)


def _check_merged(merged: Tensor, prior_scale: Tensor, reach: Tensor, border: str) -> None:
    _check_border(border)
    groups, heads = prior_scale.numel(), 4 * reference.TAPS * prior_scale.numel()
    width = merged.shape[-1] - heads if merged.dim() == 4 else -1
    if prior_scale.dim() != 1 or not groups or width < 0 or width % groups:
        raise InputError(
            "merged: expected shape (B, H, W, D + 36 G), D values that G divides and 36 heads of "
            f"each group, got {tuple(merged.shape)} and a prior_scale of shape "
            f"{tuple(prior_scale.shape)}; give one prior for each of the G groups"
        )
    if tuple(reach.shape) not in ((1, 2), (merged.shape[0], 2)):
        raise InputError(
            f"reach: expected shape (1, 2) or {(merged.shape[0], 2)} to fit merged "
            f"{tuple(merged.shape)}, got {tuple(reach.shape)}; give (x, y) once or for each sample"
        )
    check_operands(merged=merged, prior_scale=prior_scale, reach=reach)
    _check_sides("merged", merged)


def _fake_sample(values: Tensor, *others: Any) -> Tensor:
    return values.new_empty(values.shape)


def _fake_sample_backward(
    grad: Tensor,
    values: Tensor,
    offsets: Tensor,
    weights: Tensor,
    border: str,
    want_values: bool = True,
    want_taps: bool = True,
) -> tuple[Tensor, ...]:
    wanted = (values, want_values), (offsets, want_taps), (weights, want_taps)
    return tuple(tensor.new_empty(tensor.shape if want else 0) for tensor, want in wanted)


def _fake_msdcn(merged: Tensor, prior_scale: Tensor, *others: Any) -> Tensor:
    heads = 4 * reference.TAPS * prior_scale.shape[0]
    return merged.new_empty((*merged.shape[:3], merged.shape[3] - heads))


def _fake_msdcn_backward(grad: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in inputs[:2])


class _Pushed(torch.autograd.Function):
    """The sums and, in forward mode, how fast they change."""

    @staticmethod
    def forward(values: Tensor, offsets: Tensor, weights: Tensor, border: str) -> Tensor:
        found: Tensor = _sample(values, offsets, weights, border)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.border = inputs
        ctx.save_for_forward(*tensors)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        known = zip(ctx.saved_tensors, tangents[:3], strict=True)
        whole = [
            torch.zeros_like(tensor) if change is None else change.contiguous()
            for tensor, change in known
        ]
        found: Tensor = _sample_tangent(*ctx.saved_tensors, *whole, ctx.border)
        return found


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.border = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad[:3]
    flags = wanted[0], wanted[1] or wanted[2]
    found = _sample_backward(grad.contiguous(), *ctx.saved_tensors, ctx.border, *flags)
    return *(one if want else None for one, want in zip(found, wanted, strict=True)), None


def _differentiate_msdcn(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_msdcn_backward(grad.contiguous(), *ctx.saved_tensors, ctx.border), None, None


def _refuse(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError(
        "deform_sample: expected to be differentiated once, got a second backward through it; "
        "use convflow.ops.deform.reference.deform_sample, which differentiates any number of times"
    )


_sample_backward = register(
    "deform_sample_backward",
    "(Tensor grad, Tensor values, Tensor offsets, Tensor weights, str border, "
    "bool want_values=True, bool want_taps=True) -> (Tensor, Tensor, Tensor)",
    reference.deform_sample_backward,
    {"cpu": cpu.deform_sample_backward, "cuda": gpu.deform_sample_backward},
    _fake_sample_backward,
    _refuse,
)
_sample = register(
    "deform_sample",
    "(Tensor values, Tensor offsets, Tensor weights, str border) -> Tensor",
    reference.deform_sample,
    {"cpu": cpu.deform_sample, "cuda": gpu.deform_sample},
    _fake_sample,
    _differentiate,
    _save,
)
_sample_tangent = register(
    "deform_sample_tangent",
    "(Tensor values, Tensor offsets, Tensor weights, Tensor values_tangent, "
    "Tensor offsets_tangent, Tensor weights_tangent, str border) -> Tensor",
    reference.deform_sample_tangent,
    {"cpu": cpu.deform_sample_tangent, "cuda": gpu.deform_sample_tangent},
    _fake_sample,
    _refuse,
)
_msdcn_backward = register(
    "msdcn_sample_backward",
    "(Tensor grad, Tensor merged, Tensor prior_scale, Tensor reach, str border)"
    " -> (Tensor, Tensor)",
    reference.msdcn_sample_backward,
    {"cuda": gpu.msdcn_sample_backward},
    _fake_msdcn_backward,
    _refuse,
)
_msdcn = register(
    "msdcn_sample",
    "(Tensor merged, Tensor prior_scale, Tensor reach, str border) -> Tensor",
    reference.msdcn_sample,
    {"cuda": gpu.msdcn_sample},
    _fake_msdcn,
    _differentiate_msdcn,
    _save,
)
