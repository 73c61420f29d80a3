"""`deform_sample` in operators that other runtimes have, as an exported network holds it.

There are two forms: the reference, which gathers one corner of one tap at a time, and one call of
`grid_sample` for all taps, which ONNX knows as GridSample.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from convflow.ops.deform import reference

ExportForm = Literal["reference", "grid_sample"]

_form: ContextVar[ExportForm] = ContextVar("form", default="reference")


@contextmanager
def written_as(form: ExportForm) -> Iterator[None]:
    """Export networks in here with the operator in this form, where its border is "zeros".

    The border "truncate" has the reference alone.
    """
    token = _form.set(form)
    try:
        yield
    finally:
        _form.reset(token)


def deform_sample(
    values: Float[Tensor, "B H W G C"],
    offsets: Float[Tensor, "B H W G K 2"],
    weights: Float[Tensor, "B H W G K"],
    border: str,
) -> Float[Tensor, "B H W G C"]:
    """Return the sums in the form that `written_as` says; see `convflow.ops.deform_sample`."""
    if border == "zeros" and _form.get() == "grid_sample":
        return by_grid_sample(values, offsets, weights)
    return reference.deform_sample(values, offsets, weights, border)


def by_grid_sample(
    values: Float[Tensor, "B H W G C"],
    offsets: Float[Tensor, "B H W G K 2"],
    weights: Float[Tensor, "B H W G K"],
) -> Float[Tensor, "B H W G C"]:
    """Return the sums of the border "zeros" through `F.grid_sample`, in the dtype of the values.

    It computes in the dtype of the offsets, with places as shares of the map, so that the result is
    less exact by about the side of the map times a rounding.
    """
    batch, height, width, groups, channels = values.shape
    x, y = cells(offsets).permute(0, 3, 1, 2, 4, 5).unbind(-1)
    places = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    grid = places.reshape(batch * groups, height * width, -1, 2)
    maps = values.permute(0, 3, 4, 1, 2).reshape(batch * groups, channels, height, width)
    factors = weights.permute(0, 3, 1, 2, 4).reshape(batch * groups, 1, height * width, -1)
    found = F.grid_sample(maps.to(grid.dtype), grid, align_corners=False)
    total = (found * factors).sum(-1).view(batch, groups, channels, height, width)
    return total.permute(0, 3, 4, 1, 2).to(values.dtype)


def cells(offsets: Float[Tensor, "B H W G K 2"]) -> Float[Tensor, "B H W G K 2"]:
    """Return the place of every tap, (x, y) in cells from the middle of the first one."""
    ranges = (torch.arange(side, device=offsets.device) for side in offsets.shape[1:3])
    y, x = torch.meshgrid(*ranges, indexing="ij")
    return torch.stack((x, y), -1)[:, :, None, None] + offsets
