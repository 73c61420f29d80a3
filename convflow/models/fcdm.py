"""FCDM: one convolutional block with global response norm (CVPR 2026).

Written from a description of the network. What it leaves open is chosen so that the published
counts are met, all eight to their last digit: S 32.7 M parameters and 3.07 GMACs, B 127.7 and
12.1, L 504.5 and 48.2, XL 698.8 and 64.5. So derived, and not known, are: the last stage has D
channels; a 3x3 convolution at full resolution (here: behind the last stage), without which 9 D^2
parameters are missing; resampling without bias, the head, and the initialisation, as in DiCo.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from convflow.models.backbone import LevelBackbone
from convflow.nn.conv import Conv, ConvHead, ConvStem, ResponseNorm
from convflow.nn.dense import create_linear
from convflow.nn.dropout import Dropout
from convflow.nn.frames import Temporal, create_temporal
from convflow.nn.norm import Condition, Modulation, gated, modulate
from convflow.nn.resample import Hourglass, LevelConditions, LevelVectors
from convflow.settings.fields import Classes, Depths, TimeScale, Width

KERNEL = 7
EXPANSION = 3
CELLS = 4


class FCDMBlock(nn.Module):
    """Depthwise 7x7 convolution, then a feed-forward layer with response norm, in one residual."""

    def __init__(self, width: int, temporal: Temporal = "none") -> None:
        super().__init__()
        self.modulation = Modulation(width, 3)
        self.depthwise = Conv(width, width, KERNEL, groups=width)
        self.temporal = create_temporal(temporal, width)
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = nn.Sequential(
            create_linear(width, EXPANSION * width),
            nn.GELU(),
            ResponseNorm(EXPANSION * width),
            create_linear(EXPANSION * width, width),
        )
        self.drop = Dropout()

    def forward(self, x: Float[Tensor, "B *F H W D"], c: Condition) -> Float[Tensor, "B *F H W D"]:
        """Return the refined features under condition `c`."""
        shift, scale, gate = self.modulation(c)
        mixed = modulate(self.norm(self.temporal(self.depthwise(x))), shift, scale)
        return gated(x, gate, self.drop(self.mlp(mixed)))


class FCDM(LevelBackbone):
    """A U of `FCDMBlock`s between a 3x3 convolution and a zero-initialised head.

    Three levels of D, 2D and 4D channels at full, half and quarter height and width, each with
    time and label embeddings of its own. It predicts zero at initialisation and takes any
    rectangle of multiples of 4.
    """

    family = "fcdm"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The settings of an FCDM.

        Attributes:
            in_channels: channels of the image in model space.
            num_classes: labels are 0 .. num_classes - 1, and `num_classes` means "no label".
            width: feature channels D of the finest level.
            depths: blocks of the five stages: two down, the middle, two up.
            learned_variance: predict 2C channels, first the noise, then where the variance lies
                between its bounds, from -1 to 1, as the published DDPMs do; otherwise C, as flows
                do.
            pad: take images of any size: mirror them inside to the next multiple, and cut off.
            time_scale: what a time is multiplied by before it is embedded: 1 for published weights
                and for steps 0 to 999. A flow trains a new network with 1000.
            second_time: take two times of each image and predict the average between them, as the
                process "meanflow" trains it, which sets this.
            told_guidance: take a scale of guidance beside the two times, as the process "meanflow"
                trains it with `guidance_max`, which sets this.
            temporal: "none" for pictures; "conv" for videos: convolutions along time follow those
                of each frame, and change nothing in a new network.
        """

        in_channels: Width = 4
        num_classes: Classes = 1000
        width: Width = 128
        depths: Depths = (2, 4, 8, 4, 2)
        learned_variance: bool = False
        pad: bool = False
        time_scale: TimeScale = 1.0
        second_time: bool = False
        told_guidance: bool = False
        temporal: Temporal = "none"

    config: Config

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        c, width = self.config, self.config.width
        self.in_channels, self.num_classes = c.in_channels, c.num_classes
        self.video = c.temporal != "none"
        self.learned_variance = c.learned_variance
        self.cells, self.multiple = CELLS, 1 if c.pad else CELLS
        self.embed = ConvStem(c.in_channels, width)
        widths = Hourglass.widths_of(width)
        self.embed_condition = LevelConditions(c.num_classes, widths, c.time_scale)
        self.body = Hourglass(
            partial(FCDMBlock, temporal=c.temporal), width, c.depths, out_width=width
        )
        self.refine = Conv(width, width)
        self.project = ConvHead(width, c.in_channels * (2 if c.learned_variance else 1))
        self.tell_second_time(c.second_time, c.told_guidance)

    def trunk(
        self, features: Float[Tensor, "B *F h w D"], c: LevelVectors
    ) -> Float[Tensor, "B *F h w D"]:
        return self.refine(self.body(features, c))
