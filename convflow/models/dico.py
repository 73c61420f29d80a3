"""DiCo: plain convolutions and compact channel attention (Ai et al. 2025, arXiv 2505.11196).

The isotropic layouts are ablations of the paper (table 4), which gives their size and not their
settings. All four of its counts are met by width 256, 24 blocks, mlp_ratio 6 and, with skips, 11
of them: 33.72 M parameters and 5.67 GMACs (published 33.7 and 5.67), with skips 35.17 M and 6.04
(35.1 and 6.04).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from convflow.models.backbone import LevelBackbone, check_ratio
from convflow.nn.conv import AttentionName, ConvHead, ConvMix, ConvStem
from convflow.nn.dense import MLP, ActivationName, create_activation
from convflow.nn.dropout import Dropout
from convflow.nn.embed import PatchEmbedding, PatchHead
from convflow.nn.frames import Temporal
from convflow.nn.norm import Condition, Modulation, gated, modulate, residual
from convflow.nn.resample import Hourglass, Join, LevelConditions, LevelVectors
from convflow.settings.fields import Classes, Depths, Positive, TimeScale, Width
from convflow.types import InputError

Layout = Literal["u", "isotropic", "isotropic-skip"]

PATCH = 2


class DiCoBlock(nn.Module):
    """DiCo's module, then a feed-forward layer, each normed, modulated, gated and added."""

    def __init__(
        self,
        width: int,
        mlp_ratio: float,
        kernel_size: int,
        attention: AttentionName,
        activation: ActivationName,
        temporal: Temporal = "none",
    ) -> None:
        super().__init__()
        self.modulation = Modulation(width, 6)
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mix = ConvMix(width, kernel_size, attention, activation, temporal)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = MLP(width, int(mlp_ratio * width), create_activation(activation))
        self.drop1, self.drop2 = Dropout(), Dropout()

    def forward(self, x: Float[Tensor, "B *F H W D"], c: Condition) -> Float[Tensor, "B *F H W D"]:
        """Return the refined features under condition `c`."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c)
        x = gated(x, gate1, self.drop1(self.mix(modulate(self.norm1(x), shift1, scale1))))
        return gated(x, gate2, self.drop2(self.mlp(modulate(self.norm2(x), shift2, scale2))))


class Stack(nn.Module):
    """Blocks one after another at one resolution, the first half with or without skips.

    With skips, block k from the end first joins the output of block k from the start, as in U-ViT
    (Bao et al. 2023, figure 1).
    """

    def __init__(
        self, block: Callable[[int], nn.Module], width: int, depths: Sequence[int], skips: bool
    ) -> None:
        super().__init__()
        if len(depths) != 1 or depths[0] < 1:
            raise InputError(
                "expected depths of one number of at least 1 for an isotropic layout, got "
                f"{list(depths)}; try [24]"
            )
        self.blocks = nn.ModuleList(block(width) for _ in range(depths[0]))
        count = (depths[0] - 1) // 2 if skips else 0
        self.join = nn.ModuleList(Join(width, width) for _ in range(count))

    def joints(self) -> list[tuple[nn.Module, nn.Module]]:
        """Return each layer between two blocks, and the block that follows."""
        return [(layer, self.blocks[-1 - k]) for k, layer in enumerate(self.join)]

    def forward(
        self, x: Float[Tensor, "B *F H W D"], c: LevelVectors
    ) -> Float[Tensor, "B *F H W D"]:
        """Return refined features."""
        first_joined = len(self.blocks) - len(self.join)
        outputs: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            if index >= first_joined:
                opposite = len(self.blocks) - 1 - index
                x = residual(self.join[opposite](x, outputs[opposite]))
            x = block(x, c[0])
            outputs.append(x)
        return x


class DiCo(LevelBackbone):
    """A U of `DiCoBlock`s between a 3x3 convolution and a zero-initialised head.

    Three levels of D, 2D and 4D channels at full, half and quarter height and width, each with
    time and label embeddings of its own; the last stage has 2D channels at full resolution. It
    predicts zero at initialisation and takes any rectangle of multiples of 4.
    """

    family = "dico"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The settings of a DiCo.

        Attributes:
            in_channels: channels of the image in model space.
            num_classes: labels are 0 .. num_classes - 1, and `num_classes` means "no label".
            width: feature channels D of the finest level.
            depths: blocks of the five stages: two down, the middle, two up. Isotropic: one number.
            mlp_ratio: hidden width of the feed-forward layers, in widths.
            kernel_size: side of the depthwise kernels: 3 as published; 5 and 7 are its ablations.
            attention: "cca", compact channel attention, as published; "se" or "none" (ablations).
            activation: "gelu" as published, or "relu" (ablation).
            layout: "u" as published; "isotropic" or "isotropic-skip" (ablations) on patches of 2x2.
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
        depths: Depths = (5, 4, 4, 4, 4)
        mlp_ratio: Positive = 2.0
        kernel_size: Width = 3
        attention: AttentionName = "cca"
        activation: ActivationName = "gelu"
        layout: Layout = "u"
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
        check_ratio(c.mlp_ratio, width)
        self.in_channels, self.num_classes = c.in_channels, c.num_classes
        self.video = c.temporal != "none"
        self.learned_variance = c.learned_variance
        out_channels = c.in_channels * (2 if c.learned_variance else 1)
        block = partial(
            DiCoBlock,
            mlp_ratio=c.mlp_ratio,
            kernel_size=c.kernel_size,
            attention=c.attention,
            activation=c.activation,
            temporal=c.temporal,
        )
        self.body: nn.Module
        widths: tuple[int, ...]
        if c.layout == "u":
            self.cells, self.last_level, widths = 4, 1, Hourglass.widths_of(width)
            self.embed = ConvStem(c.in_channels, width)
            self.body = Hourglass(block, width, c.depths, out_width=2 * width)
            self.project = ConvHead(2 * width, out_channels)
        else:
            self.cells, self.last_level, widths = PATCH, 0, (width,)
            self.embed = PatchEmbedding(c.in_channels, width, PATCH)
            self.body = Stack(block, width, c.depths, skips=c.layout == "isotropic-skip")
            self.project = PatchHead(width, PATCH, out_channels)
        self.embed_condition = LevelConditions(c.num_classes, widths, c.time_scale)
        self.multiple = 1 if c.pad else self.cells
        self.tell_second_time(c.second_time, c.told_guidance)

    def trunk(
        self, features: Float[Tensor, "B *F h w D"], c: LevelVectors
    ) -> Float[Tensor, "B *F h w E"]:
        return self.body(features, c)
