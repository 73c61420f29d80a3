"""The truth about deformable sampling, and MSDCN's taps: forward and backward in plain PyTorch.

FlowDCN (Wang et al., NeurIPS 2024, arXiv 2410.22655), section 3; bilinear weights as in DCNv2.
Slow and obvious; runs on any device, and the forward is a composite that both forward-mode and
reverse-mode differentiation go through.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

TAPS = 9
"""Points of the groupwise multi-scale deformable convolution: a grid of 3 x 3."""


class _Taps(NamedTuple):
    """Where every tap falls: whether it touches the map, its top left row in the padded map, and
    its fraction of a cell."""

    inside: Bool[Tensor, "B H W G K"]
    row: Int[Tensor, "B H W G K"]
    x: Float[Tensor, "B H W G K"]
    y: Float[Tensor, "B H W G K"]


def deform_sample(
    values: Float[Tensor, "B H W G C"],
    offsets: Float[Tensor, "B H W G K 2"],
    weights: Float[Tensor, "B H W G K"],
    border: str,
) -> Float[Tensor, "B H W G C"]:
    """Weighted sum of bilinear samples; see `convflow.ops.deform_sample`.

    Args:
        values: features, any floating dtype.
        offsets: (x, y) in cells; their dtype is the one that everything is computed in.
        weights: one factor per tap, in the dtype of `offsets`; not looked at where a tap is
            outside, as an upstream gradient is not.
        border: "zeros" or "truncate".

    Returns:
        The sums, contiguous, in the dtype of `values`.
    """
    rows, taps = _pad(values, offsets.dtype), _locate(offsets, border)
    out = torch.zeros_like(values, dtype=offsets.dtype, memory_format=torch.contiguous_format)
    if not offsets.shape[-2]:  # empty sums: nothing, but it has gradients
        empty = values[..., :0].sum(-1) + offsets.sum((-2, -1)) + weights.sum(-1)
        out = out + empty.unsqueeze(-1)
    for k in range(offsets.shape[-2]):
        tap = _Taps(*(field[..., k] for field in taps))
        weight = torch.where(tap.inside, weights[..., k], 0.0)
        for step, share in _corners(tap, values):
            out = out + (weight * share).unsqueeze(-1) * rows[tap.row + step]
    return out.to(values.dtype)


def deform_sample_backward(
    grad: Float[Tensor, "B H W G C"],
    values: Float[Tensor, "B H W G C"],
    offsets: Float[Tensor, "B H W G K 2"],
    weights: Float[Tensor, "B H W G K"],
    border: str,
    want_values: bool = True,
    want_taps: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `deform_sample` with respect to its three tensors, written out by hand.

    Args:
        grad: gradient of the result.
        values: as given to `deform_sample`.
        offsets: as given to `deform_sample`.
        weights: as given to `deform_sample`.
        border: as given to `deform_sample`.
        want_values: compute the gradient of the values.
        want_taps: compute the gradients of offsets and weights.

    Returns:
        The gradients of values, offsets and weights, each in its tensor's shape and dtype; of shape
        (0,) where it is not wanted.
    """
    rows, taps = _pad(values, offsets.dtype), _locate(offsets, border)
    upstream = grad.to(offsets.dtype)
    grad_rows, grad_offsets, grad_weights = map(torch.zeros_like, (rows, offsets, weights))
    for k in range(offsets.shape[-2]):
        tap = _Taps(*(field[..., k] for field in taps))
        weight = torch.where(tap.inside, weights[..., k], 0.0)
        dots = []
        for step, share in _corners(tap, values):
            corner = tap.row + step
            if want_values:
                spread = (weight * share).unsqueeze(-1) * upstream
                grad_rows.index_add_(0, corner.flatten(), spread.flatten(0, -2))
            if want_taps:
                dots.append(torch.where(tap.inside, (upstream * rows[corner]).sum(-1), 0.0))
                grad_weights[..., k] += share * dots[-1]
        if not want_taps:
            continue
        nw, ne, sw, se = dots
        grad_offsets[..., k, 0] = weight * ((1 - tap.y) * (ne - nw) + tap.y * (se - sw))
        grad_offsets[..., k, 1] = weight * ((1 - tap.x) * (sw - nw) + tap.x * (se - ne))
    batch, height, width, groups, channels = values.shape
    padded = grad_rows.view(batch, height + 2, width + 3, groups, channels)
    grads = padded[:, 1:-1, 1:-2].to(values.dtype).contiguous(), grad_offsets, grad_weights
    return pick(grads, want_values, want_taps)


def deform_sample_tangent(
    values: Float[Tensor, "B H W G C"],
    offsets: Float[Tensor, "B H W G K 2"],
    weights: Float[Tensor, "B H W G K"],
    values_tangent: Float[Tensor, "B H W G C"],
    offsets_tangent: Float[Tensor, "B H W G K 2"],
    weights_tangent: Float[Tensor, "B H W G K"],
    border: str,
) -> Float[Tensor, "B H W G C"]:
    """Directional derivative of `deform_sample`, written out by hand.

    Args:
        values: as given to `deform_sample`.
        offsets: as given to `deform_sample`.
        weights: as given to `deform_sample`.
        values_tangent: how fast the values change, in their shape and dtype.
        offsets_tangent: likewise of the offsets; not looked at where a tap is outside.
        weights_tangent: likewise of the weights.
        border: as given to `deform_sample`.

    Returns:
        How fast the result changes, contiguous, in the dtype of `values`.
    """
    rows, moved = _pad(values, offsets.dtype), _pad(values_tangent, offsets.dtype)
    taps = _locate(offsets, border)
    out = torch.zeros_like(values, dtype=offsets.dtype, memory_format=torch.contiguous_format)
    for k in range(offsets.shape[-2]):
        tap = _Taps(*(field[..., k] for field in taps))
        weight, change = (
            torch.where(tap.inside, of[..., k], 0.0) for of in (weights, weights_tangent)
        )
        x, y = (torch.where(tap.inside, offsets_tangent[..., k, axis], 0.0) for axis in range(2))
        turned = (
            -(1 - tap.y) * x - (1 - tap.x) * y,
            (1 - tap.y) * x - tap.x * y,
            (1 - tap.x) * y - tap.y * x,
            tap.y * x + tap.x * y,
        )
        for (step, share), turn in zip(_corners(tap, values), turned, strict=True):
            corner, slope = tap.row + step, change * share + weight * turn
            out = out + slope.unsqueeze(-1) * rows[corner]
            out = out + (weight * share).unsqueeze(-1) * moved[corner]
    return out.to(values.dtype)


def pick(
    grads: tuple[Tensor, Tensor, Tensor], want_values: bool, want_taps: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of values, offsets and weights; an empty tensor for each that is not wanted."""
    wanted = want_values, want_taps, want_taps
    first, second, third = (
        grad if want else grad.new_empty(0) for grad, want in zip(grads, wanted, strict=True)
    )
    return first, second, third


def prior_grid(device: torch.device | None = None) -> Float[Tensor, "9 2"]:
    """Return the points (x, y) of a 3 x 3 grid of -1, 0 and 1, x fastest."""
    steps = torch.arange(-1.0, 2.0, device=device)
    return torch.cartesian_prod(steps, steps).flip(-1)


def place_taps(
    bend: Float[Tensor, "B H W G 9 2"], spacing: Float[Tensor, "B H W G 9"], reach: Tensor | float
) -> Float[Tensor, "B H W G 9 2"]:
    """Return the offsets of MSDCN in cells: `bend * (spacing * reach)`.

    Args:
        bend: direction of every point with the prior grid added.
        spacing: of the grid as a share of the reach, in (0, 1).
        reach: S_max in cells: a number, or what multiplies offsets.
    """
    return bend * (spacing[..., None] * reach)


def read_merged(
    merged: Float[Tensor, "B H W merged"], prior_scale: Float[Tensor, " G"]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return values as they stand, and bends, spacings and weights in the prior's dtype.

    Args:
        merged: for each position G x C values, then G x 36 heads: G x 9 x 2 directions (x, y),
            G x 9 scales and G x 9 weights.
        prior_scale: added to the scales of each group; in the dtype to compute in.
    """
    groups, kind = prior_scale.shape[0], prior_scale.dtype
    heads = [groups * TAPS * part for part in (2, 1, 1)]
    values, direction, scale, weight = merged.split([merged.shape[-1] - sum(heads), *heads], -1)
    bend = direction.to(kind).unflatten(-1, (groups, TAPS, 2)) + prior_grid(merged.device).to(kind)
    logits = scale.to(kind).unflatten(-1, (groups, TAPS)) + prior_scale[:, None]
    weights = weight.to(kind).unflatten(-1, (groups, TAPS))
    return values.unflatten(-1, (groups, -1)), bend, logits.sigmoid(), weights


def msdcn_sample(
    merged: Float[Tensor, "B H W merged"],
    prior_scale: Float[Tensor, " G"],
    reach: Float[Tensor, "N 2"],
    border: str,
) -> Float[Tensor, "B H W D"]:
    """Deformable sampling at the taps of raw heads; see `convflow.ops.deform.op.msdcn_sample`.

    Args:
        merged: as `read_merged` takes it, any floating dtype.
        prior_scale: its dtype is the one that everything is computed in.
        reach: (x, y) in cells, one row for all samples or one for each.
        border: "zeros" or "truncate".

    Returns:
        The sums, contiguous, in the dtype of `merged`.
    """
    values, bend, spacing, weights = read_merged(merged, prior_scale)
    offsets = place_taps(bend, spacing, _rows(reach))
    return deform_sample(values, offsets, weights, border).flatten(3)


def msdcn_sample_backward(
    grad: Float[Tensor, "B H W D"],
    merged: Float[Tensor, "B H W merged"],
    prior_scale: Float[Tensor, " G"],
    reach: Float[Tensor, "N 2"],
    border: str,
) -> tuple[Tensor, Tensor]:
    """Gradients of `msdcn_sample` with respect to `merged` and `prior_scale`, by hand.

    `grad` is the gradient of the result; other arguments are those of `msdcn_sample`.

    Returns:
        Both gradients, each in its tensor's shape and dtype.
    """
    values, bend, spacing, weights = read_merged(merged, prior_scale)
    offsets = place_taps(bend, spacing, _rows(reach))
    grad_values, grad_offsets, grad_weights = deform_sample_backward(
        grad.view(values.shape), values, offsets, weights, border
    )
    stretched = grad_offsets * _rows(reach)
    grad_scale = (stretched * bend).sum(-1) * spacing * (1 - spacing)
    grad_direction = stretched * spacing[..., None]
    grads = (grad_values, grad_direction, grad_scale, grad_weights)
    grad_merged = torch.cat([part.flatten(3).to(merged.dtype) for part in grads], -1)
    return grad_merged, grad_scale.sum((0, 1, 2, 4))


def _rows(reach: Tensor) -> Tensor:
    return reach[:, None, None, None, None]


def _pad(values: Tensor, dtype: torch.dtype) -> Float[Tensor, "rows C"]:
    """One row per cell and group, with a ring of zeros: one cell wide, two on the right."""
    return F.pad(values.to(dtype), (0, 0, 0, 0, 1, 2, 1, 1)).flatten(0, -2)


def _locate(offsets: Tensor, border: str) -> _Taps:
    batch, height, width, groups, _, _ = offsets.shape
    device = offsets.device
    x = offsets[..., 0] + torch.arange(width, device=device).view(-1, 1, 1)
    y = offsets[..., 1] + torch.arange(height, device=device).view(-1, 1, 1, 1)
    whole = torch.floor if border == "zeros" else torch.trunc
    left, top = whole(x), whole(y)
    # NaN compares false, so it is outside as well.
    inside = (left >= -1) & (left < width) & (top >= -1) & (top < height)
    fraction_x = torch.where(inside, x - left, 0.0)
    fraction_y = torch.where(inside, y - top, 0.0)
    # Taps that touch nothing are parked at column `width`: it and the next are both padding.
    left = torch.where(inside, left, width).long()
    top = torch.where(inside, top, 0).long()
    image = torch.arange(batch, device=device).view(-1, 1, 1, 1, 1) * (height + 2)
    row = ((image + top + 1) * (width + 3) + left + 1) * groups
    row = row + torch.arange(groups, device=device).view(-1, 1)
    return _Taps(inside, row, fraction_x, fraction_y)


def _corners(tap: _Taps, values: Tensor) -> tuple[tuple[int, Tensor], ...]:
    """Rows to step and bilinear share of the corners: north west, north east, south west, ..."""
    right = values.shape[3]
    down = (values.shape[2] + 3) * right
    return (
        (0, (1 - tap.x) * (1 - tap.y)),
        (right, tap.x * (1 - tap.y)),
        (down, (1 - tap.x) * tap.y),
        (down + right, tap.x * tap.y),
    )
