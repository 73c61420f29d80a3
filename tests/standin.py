"""A network of scales for tests, until `models/pyramid.py` is there; then this file can go."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convflow.models import zoo
from convflow.models.backbone import Backbone


class StandIn(Backbone):
    """One backbone for each scale, each shown its own scale alone; the contract of `Pyramid`."""

    family = "pyramid"

    def __init__(
        self,
        *,
        backbone: Mapping[str, Any],
        factors: Sequence[int] = (2,),
        stage_embedding: bool = False,
        coarse: str = "patch",
    ) -> None:
        super().__init__()
        settings = dict(backbone)
        family = settings.pop("family")
        self.parts = nn.ModuleList(
            zoo.create_model(family, **settings) for _ in range(len(factors) + 1)
        )
        first: Any = self.parts[0]
        self.in_channels, self.num_classes = first.in_channels, first.num_classes
        self.multiple = math.prod(factors) * first.multiple

    def forward(  # type: ignore[override]
        self, scales: Sequence[Tensor], t: Tensor, y: Tensor, active: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        found = []
        for i, x in enumerate(scales):
            v = self.parts[i](x, t[:, i], y)
            if active is not None:
                v = v * (active > i).view(-1, 1, 1, 1)
            found.append(v)
        return tuple(found)


def pyramid_class() -> type[Backbone]:
    """`Pyramid` where it is merged, else the stand-in."""
    return zoo.FAMILIES.get("pyramid", StandIn)


def build_pyramid(seed: int = 7, factors: Sequence[int] = (2,), channels: int = 3) -> Any:
    """A tiny network of scales, every parameter of which speaks."""
    backbone = {
        "family": "flowdcn", "in_channels": channels, "num_classes": 5, "width": 16, "depth": 1,
        "num_groups": 2,
    }  # fmt: skip
    torch.manual_seed(seed)
    model = pyramid_class()(backbone=backbone, factors=list(factors)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model
