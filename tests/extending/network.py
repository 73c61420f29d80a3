"""A network of a user's own: a few 3x3 convolutions, conditioned by one added vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from convflow.models.backbone import PictureBackbone
from convflow.nn.embed import LabelEmbedding, TimeEmbedding


class Net(PictureBackbone):
    """`depth` convolutions of `width` channels; a new one predicts zero."""

    @dataclass(frozen=True)
    class Config:
        """The settings, as `--model.width 8` and config.json have them."""

        in_channels: int = 3
        num_classes: int = 10
        width: int = 16
        depth: int = 2

    config: Config
    multiple = 1
    options = ("loudness",)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        c = self.config
        self.in_channels, self.num_classes = c.in_channels, c.num_classes
        self.enter = nn.Conv2d(c.in_channels, c.width, 3, padding=1)
        self.time = TimeEmbedding(c.width)
        self.label = LabelEmbedding(c.num_classes, c.width)
        self.layers = nn.ModuleList(
            nn.Conv2d(c.width, c.width, 3, padding=1) for _ in range(c.depth)
        )
        self.leave = nn.Conv2d(c.width, c.in_channels, 1)
        nn.init.zeros_(self.leave.weight)

    def stem(self, x: Tensor) -> Tensor:
        return self.enter(x)

    def condition(self, t: Tensor, y: Tensor) -> Tensor:
        return self.time(t) + self.label(y)

    def trunk(self, features: Tensor, c: Tensor, loudness: float = 1.0) -> Tensor:
        for layer in self.layers:
            features = features + layer(nn.functional.silu(features + c[:, :, None, None]))
        return loudness * features

    def head(self, features: Tensor, c: Tensor) -> Tensor:
        return self.leave(features)
