"""The network that a user would take instead: a plain U-Net of diffusers, as a network of a user.

python -m convflow train cifar10.flowdcn --model.name benchmarks.quality.unet:UNet

Residual blocks of 3x3 convolutions, with attention at half and quarter height and width (Ho et al.
2020, appendix B). Layers and initialisation are those of diffusers' `UNet2DModel`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diffusers import UNet2DModel
from jaxtyping import Float, Int
from torch import Tensor, nn

from convflow.conditions.added import Added
from convflow.models.backbone import ImageBackbone
from convflow.settings.fields import Classes, Depths, TimeScale, Width

TIME_FACTOR = 4
"""Channels of the embedded time over those of the finest level, as in diffusers."""


class UNet(ImageBackbone):
    """`UNet2DModel` with attention on all levels but the finest; 5.65 M parameters by default.

    The label is embedded here and added to the embedded time, where `UNet2DModel` would add its
    own table, so that what augmentation tells the network can be added too.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The settings of the U-Net.

        Attributes:
            in_channels: channels of the image in model space.
            num_classes: labels are 0 .. num_classes - 1, and `num_classes` means "no label".
            widths: channels of each level, the finest first; multiples of 32.
            layers: residual blocks of each level on the way down; one more on the way up.
            time_scale: what a time is multiplied by before it is embedded.
        """

        in_channels: Width = 3
        num_classes: Classes = 10
        widths: Depths = (64, 96, 128)
        layers: Width = 2
        time_scale: TimeScale = 1000.0

    config: Config

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        c = self.config
        self.in_channels, self.num_classes = c.in_channels, c.num_classes
        self.multiple = 2 ** (len(c.widths) - 1)
        coarse = len(c.widths) - 1
        self.label = nn.Embedding(c.num_classes + 1, TIME_FACTOR * c.widths[0])
        self.unet = UNet2DModel(
            in_channels=c.in_channels,
            out_channels=c.in_channels,
            block_out_channels=c.widths,
            layers_per_block=c.layers,
            down_block_types=("DownBlock2D", *("AttnDownBlock2D",) * coarse),
            up_block_types=(*("AttnUpBlock2D",) * coarse, "UpBlock2D"),
            class_embed_type="identity",
        )

    def create_condition(self, make: Callable[[int], nn.Module]) -> nn.Module:
        """Return a new part of the condition, one vector."""
        return make(self.label.embedding_dim)

    def forward(
        self, x: Float[Tensor, "B C H W"], t: Float[Tensor, " B"], y: Int[Tensor, " B"] | Added
    ) -> Float[Tensor, "B C H W"]:
        """Return the prediction; height and width are multiples of `multiple`."""
        self.check_input(x)
        told = self.label(y.cond) + y.vectors if isinstance(y, Added) else self.label(y)
        return self.unet(x, self.config.time_scale * t, told).sample
