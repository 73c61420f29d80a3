"""DiT and SiT: attention, conditioned by adaLN-Zero.

DiT is trained as a DDPM (Peebles & Xie 2023, arXiv 2212.09748), SiT on the path of an interpolant
(Ma et al. 2024, arXiv 2401.08740); the network is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from convflow.models.backbone import PatchBackbone
from convflow.models.fitting import check_ratio, outputs_per_channel
from convflow.models.text import TextSettings
from convflow.nn.attention import Attention, TemporalAttention
from convflow.nn.dense import GELUMLP
from convflow.nn.dropout import Dropout
from convflow.nn.embed import LabelEmbedding, PatchEmbedding, PatchHead, TimeEmbedding
from convflow.nn.frames import per_frame
from convflow.nn.norm import Condition, Modulation, gated, modulate
from convflow.nn.positions import (
    Positions,
    PositionScaling,
    rotary_frames,
    rotary_positions,
    rotary_video,
    sincos_positions,
)
from convflow.settings.fields import Classes, Depth, Positive, TimeScale, Width
from convflow.types import InputError

AlongTime = Literal["none", "full", "factorised"]
"""How attention sees a video: not at all, for pictures; all frames as one map; or frame by frame,
and along time besides."""

Rotations = tuple[Tensor | None, Tensor | None]
"""Of attention over maps, and of attention along time; None where there is none."""


class DiTBlock(nn.Module):
    """Attention, then a feed-forward layer, each normed, modulated, gated and added."""

    def __init__(
        self, width: int, num_heads: int, mlp_ratio: float, qk_norm: bool, temporal: AlongTime
    ) -> None:
        super().__init__()
        self.modulation = Modulation(width, 6)
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mix = Attention(width, num_heads, qk_norm)
        self.temporal = None
        if temporal == "factorised":
            self.temporal = TemporalAttention(width, num_heads, qk_norm)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = GELUMLP(width, mlp_ratio)
        self.drop1, self.drop2 = Dropout(), Dropout()
        self.cross: nn.Module | None = None

    def forward(
        self, x: Float[Tensor, "B *F H W D"], c: Condition, rotations: Rotations
    ) -> Float[Tensor, "B *F H W D"]:
        """Return the refined features under condition `c`."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c)
        x = gated(x, gate1, self._mixed(modulate(self.norm1(x), shift1, scale1), *rotations))
        x = x if self.cross is None else x + self.cross(x, c)
        return gated(x, gate2, self.drop2(self.mlp(modulate(self.norm2(x), shift2, scale2))))

    def _mixed(self, x: Tensor, turned: Tensor | None, later: Tensor | None) -> Tensor:
        """Return what the positions gather, within frames and along time, after dropout."""
        if self.temporal is None:
            return self.drop1(self.mix(x, turned))
        within = per_frame(partial(self.mix, rotation=turned), x)
        return self.drop1(within + self.temporal(x, later))


class DiT(PatchBackbone):
    """A stack of `DiTBlock`s between a patch embedding and a zero-initialised head.

    It predicts zero at initialisation and takes any rectangle that the patch divides. Its time is
    that of a DDPM, the steps 0 .. 999 with 0 = clean.
    """

    family = "dit"
    options = ("position_scaling",)

    @dataclass(frozen=True, kw_only=True)
    class Config(TextSettings):
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
            temporal: "none" for pictures. For videos "full", attention over all frames at once,
                which wants rotary positions; or "factorised", attention within each frame and,
                added to it, along time at each place, which in a new network is zero.
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
        temporal: AlongTime = "none"

    config: Config

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        c, width = self.config, self.config.width
        check_ratio(c.mlp_ratio, width)
        turned = width // c.num_heads if c.positions == "rotary" else width
        self.temporal, self.video = c.temporal, c.temporal != "none"
        if c.temporal == "factorised" and width // c.num_heads % 2:
            raise InputError(
                "expected a width / num_heads that 2 divides, for positions along time, got "
                f"{width // c.num_heads}; change the width"
            )
        if c.temporal == "full":
            _check_full(c.positions, turned)
        elif turned % 4:
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
            DiTBlock(width, c.num_heads, c.mlp_ratio, c.qk_norm, c.temporal) for _ in range(c.depth)
        )
        self.project = PatchHead(width, c.patch_size, c.in_channels * num_outputs)
        self.tell_second_time(c.second_time, c.told_guidance)
        self.take_text(width)

    def trunk(
        self,
        features: Float[Tensor, "B *F h w D"],
        c: Condition,
        position_scaling: PositionScaling | None = None,
    ) -> Float[Tensor, "B *F h w D"]:
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
        turned, later = self._rotations(features, position_scaling)
        if self.positions == "sincos":
            rows, columns = features.shape[-3:-1]
            width = self.position_width
            table = sincos_positions(rows, columns, width, features, position_scaling)
            features = features + table.to(features.dtype)
            del table  # not held while the blocks run
        for block in self.blocks:
            features = block(features, c, (turned, later))
        return features

    def _rotations(self, features: Tensor, scaling: PositionScaling | None) -> Rotations:
        """Return by what queries and keys are turned, within maps and along time."""
        *frames, rows, columns, width = features.shape[1:]
        later = None
        if self.temporal == "full":
            video = (frames[0], rows, columns, self.position_width)
            return rotary_video(*video, features, scaling), None
        if self.temporal == "factorised":
            head = width // self.config.num_heads
            later = rotary_frames(frames[0], head, features, scaling)
        if self.positions == "sincos":
            return None, later
        return rotary_positions(rows, columns, self.position_width, features, scaling), later

    def check_options(self, position_scaling: PositionScaling | None = None) -> None:
        if position_scaling is not None:
            position_scaling.check(self.positions)


def _check_full(positions: Positions, turned: int) -> None:
    """Raise InputError unless positions tell the frames of a video apart in full attention."""
    if positions != "rotary":
        raise InputError(
            f"expected rotary positions with the temporal full, got {positions}, which do not tell "
            'frames apart; give positions rotary, or the temporal "factorised"'
        )
    if turned % 2 or turned < 6:
        raise InputError(
            "expected width / num_heads of at least 6 that 2 divides, for positions along three "
            f"axes, got {turned}; change the width"
        )


class SiT(DiT):
    """A `DiT` for flows: time lies in [0, 1], 0 = noise and 1 = data; else nothing differs."""

    family = "sit"
