"""Groupwise multi-scale deformable convolution (FlowDCN, Wang et al. 2024, section 3.2)."""

from __future__ import annotations

from functools import partial
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from convflow.nn.frames import per_frame
from convflow.nn.linear import Linear, linear
from convflow.ops.deform.op import Border, msdcn_sample
from convflow.ops.deform.reference import TAPS
from convflow.types import InputError, check_name

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
        check_name("border", border, get_args(Border))
        self.num_groups, self.border = num_groups, border
        self.value = Linear(width, width)
        self.direction = Linear(width, num_groups * TAPS * 2)
        self.scale = Linear(width, num_groups * TAPS, bias=False)
        self.weight = Linear(width, num_groups * TAPS)
        self.out = Linear(width, width)
        share = torch.arange(1, num_groups + 1) / num_groups
        self.prior_scale = nn.Parameter(torch.logit(share - 1e-4))
        for layer in (self.direction, self.scale, self.weight):
            nn.init.zeros_(layer.weight)
        for bias in (self.value.bias, self.direction.bias, self.out.bias):
            nn.init.zeros_(bias)

    def forward(
        self, x: Float[Tensor, "B *F H W D"], reach: Reach = DEFAULT_REACH
    ) -> Float[Tensor, "B *F H W D"]:
        """Return the gathered features of each frame; `reach` in cells, maybe of each sample."""
        rows = _as_rows(reach, x)
        if x.dim() == 5 and len(rows) > 1:
            rows = rows.repeat_interleave(x.shape[1], 0)
        # A partial: shape checks in tests would wrap a function in here where the compiler traces.
        more: dict[str, Any] = {
            "prior_scale": self.prior_scale,
            "reach": rows,
            "border": self.border,
        }
        return self.out(per_frame(partial(msdcn_sample, **more), self._merged(x)))

    def _merged(self, x: Float[Tensor, "B *F H W D"]) -> Float[Tensor, "B *F H W merged"]:
        """Return values, directions, scales and weights side by side, from one product."""
        layers = (self.value, self.direction, self.scale, self.weight)
        if not all(map(_is_plain, layers)):  # adapters and hooks have their say
            return torch.cat([layer(x) for layer in layers], -1)
        no_bias = torch.zeros_like(self.scale.weight[:, 0])
        biases = [self.value.bias, self.direction.bias, no_bias, self.weight.bias]
        weight = torch.cat([layer.weight for layer in layers])
        return linear(x, weight, torch.cat(biases), self.value.engine)


def _is_plain(layer: nn.Module) -> bool:
    return type(layer) is Linear and not (layer._forward_hooks or layer._forward_pre_hooks)


def _as_rows(reach: Reach, x: Tensor) -> Float[Tensor, "N 2"]:
    """Return a reach as (x, y), one row for all samples or one for each."""
    if isinstance(reach, (int, float)):
        return torch.full((1, 2), float(reach), device=x.device)
    pair = torch.as_tensor(reach, dtype=torch.float32, device=x.device)
    if pair.shape not in ((), (2,), (x.shape[0], 2)):
        raise InputError(
            f"expected a reach of one number or (x, y), got shape {tuple(pair.shape)}; "
            f"(x, y) for each of the samples would be {(x.shape[0], 2)}"
        )
    return (pair.expand(2) if pair.dim() == 0 else pair).reshape(-1, 2)
