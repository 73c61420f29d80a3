"""DiT and SiT: attention, conditioned by adaLN-Zero.

DiT is trained as a DDPM (Peebles & Xie 2023, arXiv 2212.09748), SiT on the path of an interpolant
(Ma et al. 2024, arXiv 2401.08740); the network is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from convflow.models.backbone import PatchBackbone
from convflow.models.checks import check_ratio, outputs_per_channel
from convflow.nn.attention import Attention
from convflow.nn.dense import GELUMLP
from convflow.nn.dropout import Dropout
from convflow.nn.embed import LabelEmbedding, PatchEmbedding, PatchHead, TimeEmbedding
from convflow.nn.norm import Condition, Modulation, gated, modulate
from convflow.nn.positions import Positions, PositionScaling, rotary_positions, sincos_positions
from convflow.settings.fields import Classes, Depth, Positive, TimeScale, Width
from convflow.types import InputError


class DiTBlock(nn.Module):
    """Attention, then a feed-forward layer, each normed, modulated, gated and added."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float, qk_norm: bool) -> None:
        super().__init__()
        self.modulation = Modulation(width, 6)
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mix = Attention(width, num_heads, qk_norm)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = GELUMLP(width, mlp_ratio)
        self.drop1, self.drop2 = Dropout(), Dropout()

    def forward(
        self, x: Float[Tensor, "B H W D"], c: Condition, rotation: Float[Tensor, "2 H W P"] | None
    ) -> Float[Tensor, "B H W D"]:
        """Return the refined features under condition `c`."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c)
        x = gated(x, gate1, self.drop1(self.mix(modulate(self.norm1(x), shift1, scale1), rotation)))
        return gated(x, gate2, self.drop2(self.mlp(modulate(self.norm2(x), shift2, scale2))))


class DiT(PatchBackbone):
    """A stack of `DiTBlock`s between a patch embedding and a zero-initialised head.

    It predicts zero at initialisation and takes any rectangle that the patch divides. Its time is
    that of a DDPM, the steps 0 .. 999 with 0 = clean.
    """

    family = "dit"
    options = ("position_scaling",)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The settings of a DiT or SiT.

        Attributes:
            in_channels: channels of the image in model space.
            num_classes: labels are 0 .. num_classes - 1, and `num_classes` means "no label".
            width: feature channels D, a multiple of 4.
            depth: number of blocks.
            num_heads: heads of the attention; divides `width`.
            patch_size: pixels along one side of a patch.
            mlp_ratio: hidden width of the feed-forward layers, in widths.
            positions: "sincos", a fixed embedding added once, as published; or "rotary", queries
                and keys turned by their place in every block, in which only offsets count.
            qk_norm: norm queries and keys in every head; not in the published networks.
            learned_variance: predict 2C channels, first the noise, then where the variance lies
                between its bounds, from -1 to 1; published DiT do.
            discard_half: let the head compute twice the channels and drop the second half, as
                published SiT do; only for their weights.
            time_spacing: frequency k of a time is 10000^(-k / time_spacing); 127 in what diffusers
                has trained.
            time_scale: what a time is multiplied by before it is embedded: 1 for published weights
                and for steps 0 to 999. A flow trains a new network with 1000.
            position_grid: rows and columns of the grid of training; positions of a larger one are
                brought into it ("pi" of `PositionScaling`, or the kind that is asked for), for
                weights that are trained on at a larger size. None leaves them as they are.
            second_time: take two times of each image and predict the average between them, as the
                process "meanflow" trains it, which sets this.
            told_guidance: take a scale of guidance beside the two times, as the process "meanflow"
                trains it with `guidance_max`, which sets this.
        """

        in_channels: Width = 4
        num_classes: Classes = 1000
        width: Width = 384
        depth: Depth = 12
        num_heads: Width = 6
        patch_size: Width = 2
        mlp_ratio: Positive = 4.0
        positions: Positions = "sincos"
        qk_norm: bool = False
        learned_variance: bool = False
        discard_half: bool = False
        time_spacing: Width = 128
        time_scale: TimeScale = 1.0
        position_grid: tuple[Width, Width] | None = None
        second_time: bool = False
        told_guidance: bool = False

    config: Config

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        c, width = self.config, self.config.width
        check_ratio(c.mlp_ratio, width)
        turned = width // c.num_heads if c.positions == "rotary" else width
        if turned % 4:
            raise InputError(
                f"expected {'width / num_heads' if c.positions == 'rotary' else 'a width'} that 4 "
                f"divides, for positions along two axes, got {turned}; change the width"
            )
        num_outputs = outputs_per_channel(c.discard_half, c.learned_variance)
        self.in_channels, self.num_classes = c.in_channels, c.num_classes
        self.multiple, self.learned_variance = c.patch_size, c.learned_variance
        self.positions, self.position_width = c.positions, turned
        self.embed_patches = PatchEmbedding(c.in_channels, width, c.patch_size)
        self.embed_time = TimeEmbedding(width, spacing=c.time_spacing, scale=c.time_scale)
        self.embed_label = LabelEmbedding(c.num_classes, width)
        self.blocks = nn.ModuleList(
            DiTBlock(width, c.num_heads, c.mlp_ratio, c.qk_norm) for _ in range(c.depth)
        )
        self.project = PatchHead(width, c.patch_size, c.in_channels * num_outputs)
        self.tell_second_time(c.second_time, c.told_guidance)

    def trunk(
        self,
        features: Float[Tensor, "B h w D"],
        c: Condition,
        position_scaling: PositionScaling | None = None,
    ) -> Float[Tensor, "B h w D"]:
        """Return refined features; positions enter here, once, however many stems there are.

        Args:
            features: of the stem.
            c: of time and label.
            position_scaling: how positions go on beyond the grid of training. One compiled graph
                of each kind serves all sizes.

        Raises:
            InputError: a scaling of other positions.
        """
        if grid_of_training := self.config.position_grid:
            kind = "pi" if position_scaling is None else position_scaling.kind
            position_scaling = PositionScaling(kind, *grid_of_training)
        _, rows, columns, _ = features.shape
        grid, rotation = (rows, columns, self.position_width, features, position_scaling), None
        if self.positions == "rotary":
            rotation = rotary_positions(*grid)
        else:
            table = sincos_positions(*grid)
            features = features + table.to(features.dtype)
            del table  # not held while the blocks run
        for block in self.blocks:
            features = block(features, c, rotation)
        return features

    def check_options(self, position_scaling: PositionScaling | None = None) -> None:
        if position_scaling is not None:
            position_scaling.check(self.positions)


class SiT(DiT):
    """A `DiT` for flows: time lies in [0, 1], 0 = noise and 1 = data; else nothing differs."""

    family = "sit"
