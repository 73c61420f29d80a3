"""Plain twins of what runs through kernels here, for files that need torch alone.

A function stands for the one of its name. A class `PlainX` is derived from `X`, and its methods and
its docstring stand for those of `X`. `single_file` puts them in their places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, Literal

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from convflow.models import pyramid
from convflow.nn import conv, deform
from convflow.nn.deform import DEFAULT_REACH, Reach, _as_rows
from convflow.nn.norm import add, modulate, widen
from convflow.nn.pyramid import PyramidCondition
from convflow.ops.deform.reference import msdcn_sample
from convflow.processes import decomposition
from convflow.processes.decomposition import DECOMPOSITIONS, Decomposition

INNER: Any
"""The class of the network inside a pyramid; the file ends with it."""


def modulated_norm(
    norm: nn.Module,
    x: Float[Tensor, "B *N D"],
    shift: Float[Tensor, "B D"],
    scale: Float[Tensor, "B D"],
) -> Float[Tensor, "B *N D"]:
    """Return `modulate(norm(x), shift, scale)`."""
    return modulate(norm(x), shift, scale)


class PlainConv(conv.Conv):
    """A convolution that keeps height and width, on features with channels last."""

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W D"]:
        """Return the filtered features; outside the map everything counts zero."""
        first = self._conv_forward(x.permute(0, 3, 1, 2), self.weight, self.bias)
        return first.permute(0, 2, 3, 1)


def gather(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return what each head's queries gather; all are (B, heads, N, D / heads)."""
    return nn.functional.scaled_dot_product_attention(q, k, v)


PlainTemporal = Literal["none"]
"""The network is one of pictures."""

PlainAlongTime = Literal["none"]
"""The network is one of pictures."""

PlainCondition = Float[Tensor, "B D"]
"""What time and label tell a block of each sample."""

PlainLevelCondition = Float[Tensor, "B _"]
"""Likewise, at one of several levels of different widths."""

PlainAnyCondition = Tensor
"""What time and label tell, at whatever level."""


def create_temporal(temporal: str, width: int) -> nn.Module:
    """Return what a block does along time: nothing, for it sees pictures."""
    return nn.Identity()


def per_frame(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return what a layer makes of pictures, each of which is a frame of its own."""
    return layer(x)


def by_frame(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return what a layer makes of pictures, each of which is a frame of its own."""
    return layer(x)


def more_frames(x: Tensor, factor: int) -> Tensor:
    """Return features of pictures as they are."""
    return x


def fewer_frames(x: Tensor, factor: int) -> Tensor:
    """Return features of pictures as they are."""
    return x


def add_conditions(conditions: Sequence[PyramidCondition]) -> PyramidCondition:
    """Return the sum of conditions that are all of one level, or all of several levels."""
    if isinstance(conditions[0], Tensor):
        return reduce(add, conditions)  # type: ignore[arg-type]
    return tuple(reduce(add, level) for level in zip(*conditions, strict=True))


class PlainGroupwiseMSDCN(deform.GroupwiseMSDCN):
    """Every position gathers nine points per group, on a 3x3 grid that it bends and scales.

    The point of tap k is `p + (direction_k + prior_k) * sigmoid(scale_k + prior_scale_g) * reach`,
    its weight is unbounded.

    Args:
        width: feature channels D, a multiple of `num_groups`.
        num_groups: groups G that share offsets and weights.
        border: "zeros", or "truncate" for published weights.
    """

    def forward(
        self, x: Float[Tensor, "B H W D"], reach: Reach = DEFAULT_REACH
    ) -> Float[Tensor, "B H W D"]:
        """Return the gathered features; `reach` in cells, maybe another for each sample."""
        layers = (self.value, self.direction, self.scale, self.weight)
        merged = torch.cat([layer(x) for layer in layers], -1)
        rows = _as_rows(reach, x).to(widen(x).dtype)
        return self.out(msdcn_sample(merged, widen(self.prior_scale), rows, self.border))


class PlainDecomposition(decomposition.Decomposition):
    """An image as a sum of S scales, exact but for rounding.

    Args:
        name: "laplacian", "haar" or "dct".
        factors: S - 1 whole numbers of at least 2, between neighbouring scales from coarse to fine.
    """

    def __init__(self, name: str = "laplacian", factors: Sequence[int] = (2,)) -> None:
        self.name, self.factors = name, tuple(factors)
        self.axes = ("space",) * len(self.factors)  # type: ignore[assignment]
        self.resampling = DECOMPOSITIONS[name]


class PlainPyramid(pyramid.Pyramid):
    """A stem, a time embedding and a head for each of S scales around the trunk of one backbone.

    Args:
        backbone: settings of the network inside.
        factors: S - 1 whole numbers, between neighbouring scales from coarse to fine.
        stage_embedding: add a learned vector for the last scale that takes part.
        coarse: how the coarsest scale enters: "patch", or "upsample" with its cells repeated.
    """

    @register_to_config
    def __init__(
        self,
        backbone: dict[str, Any],
        factors: tuple[int, ...] = (2,),
        stage_embedding: bool = False,
        coarse: str = "patch",
    ) -> None:
        super().__init__()
        self.backbone = INNER(**{n: value for n, value in backbone.items() if n != "family"})
        self._add_scales(Decomposition(factors=factors))
