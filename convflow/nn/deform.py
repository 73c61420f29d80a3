"""Groupwise multi-scale deformable convolution (FlowDCN, Wang et al. 2024, section 3.2)."""

from __future__ import annotations

from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from convflow.nn.norm import widen
from convflow.ops import deform_sample
from convflow.ops.deform.op import Border, fuses, msdcn_sample
from convflow.ops.deform.reference import TAPS, place_taps, prior_grid
from convflow.types import InputError, unknown_name

DEFAULT_REACH = 6.0

Reach = float | tuple[float, float] | Tensor
"""S_max, the largest spacing of the sampling grid in cells: a number, (x, y), or a tensor of one
number, of (x, y), or of (x, y) for each sample."""


class GroupwiseMSDCN(nn.Module):
    """Every position gathers nine points per group, on a 3x3 grid that it bends and scales.

    The point of tap k is `p + (direction_k + prior_k) * sigmoid(scale_k + prior_scale_g) * reach`,
    its weight is unbounded. At initialisation group g of G samples a plain 3x3 grid with spacing
    `reach * g / G`, so that the groups see from near to far.

    Args:
        width: feature channels D, a multiple of `num_groups`.
        num_groups: groups G that share offsets and weights.
        border: "zeros", or "truncate" for published weights (see `deform_sample`).
    """

    def __init__(self, width: int, num_groups: int, border: Border = "zeros") -> None:
        super().__init__()
        if width % num_groups:
            raise InputError(
                f"expected a width that num_groups divides, got width {width} "
                f"and num_groups {num_groups}; change one of them"
            )
        if border not in (known := get_args(Border)):
            raise InputError(unknown_name("border", border, known))
        self.num_groups, self.border = num_groups, border
        self.value = nn.Linear(width, width)
        self.direction = nn.Linear(width, num_groups * TAPS * 2)
        self.scale = nn.Linear(width, num_groups * TAPS, bias=False)
        self.weight = nn.Linear(width, num_groups * TAPS)
        self.out = nn.Linear(width, width)
        share = torch.arange(1, num_groups + 1) / num_groups
        self.prior_scale = nn.Parameter(torch.logit(share - 1e-4))
        self.prior_direction: Tensor
        self.register_buffer("prior_direction", prior_grid(), persistent=False)
        for layer in (self.direction, self.scale, self.weight):
            nn.init.zeros_(layer.weight)
        for bias in (self.value.bias, self.direction.bias, self.out.bias):
            nn.init.zeros_(bias)

    def forward(
        self, x: Float[Tensor, "B H W D"], reach: Reach = DEFAULT_REACH
    ) -> Float[Tensor, "B H W D"]:
        """Return the gathered features; `reach` in cells, maybe another for each sample."""
        groups = (*x.shape[:-1], self.num_groups)
        value = self.value(x).view(*groups, x.shape[-1] // self.num_groups)
        if fuses(value):
            rows = _as_rows(reach, x)
            gathered = msdcn_sample(value, self._heads(x), self.prior_scale, rows, self.border)
        else:
            offsets, weights = self._offsets(x, reach), self.weight(x).view(*groups, TAPS)
            gathered = deform_sample(value, offsets, weights, self.border)
        return self.out(gathered.flatten(-2))

    def _heads(self, x: Tensor) -> Float[Tensor, "B H W heads"]:
        """Return directions, scales and weights from one product instead of three."""
        layers = (self.direction, self.scale, self.weight)
        biases = (self.direction.bias, torch.zeros_like(self.scale.weight[:, 0]), self.weight.bias)
        return F.linear(x, torch.cat([layer.weight for layer in layers]), torch.cat(biases))

    def _offsets(self, x: Tensor, reach: Reach) -> Float[Tensor, "B H W G K 2"]:
        shape = (*x.shape[:-1], self.num_groups, TAPS)
        direction = widen(self.direction(x).view(*shape, 2)) + self.prior_direction
        scale = widen(self.scale(x).view(shape)) + self.prior_scale[:, None]
        return place_taps(direction, scale.sigmoid(), _as_pair(reach, x))


def _as_pair(reach: Reach, x: Tensor) -> Tensor | float:
    """Return a reach so that it multiplies offsets (B, H, W, G, K, 2)."""
    if isinstance(reach, (int, float)):
        return float(reach)
    pair = torch.as_tensor(reach, dtype=torch.float32, device=x.device)
    if pair.dim() == 2 and pair.shape == (x.shape[0], 2):
        return pair[:, None, None, None, None]
    if pair.shape not in ((), (2,)):
        raise InputError(
            f"expected a reach of one number or (x, y), got shape {tuple(pair.shape)}; "
            f"(x, y) for each of the samples would be {(x.shape[0], 2)}"
        )
    return pair


def _as_rows(reach: Reach, x: Tensor) -> Float[Tensor, "N 2"]:
    """Return a reach as (x, y), one row for all samples or one for each."""
    pair = _as_pair(reach, x)
    if isinstance(pair, float):
        return torch.full((1, 2), pair, device=x.device)
    return (pair.expand(2) if pair.dim() == 0 else pair).reshape(-1, 2)
