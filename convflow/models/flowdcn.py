"""FlowDCN: deformable convolution instead of attention (Wang et al. 2024, arXiv 2410.22655)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from convflow.models.backbone import PatchBackbone, outputs_per_channel
from convflow.nn.conv import ConvMix
from convflow.nn.deform import DEFAULT_REACH, GroupwiseMSDCN, Reach
from convflow.nn.dense import MLPName, create_mlp
from convflow.nn.dropout import Dropout
from convflow.nn.embed import LabelEmbedding, PatchEmbedding, PatchHead, TimeEmbedding
from convflow.nn.frames import Temporal, create_temporal
from convflow.nn.norm import Condition, Modulation, NormName, create_norm, gated, modulated_norm
from convflow.ops.deform.op import Border
from convflow.settings.fields import Classes, Depth, TimeScale, Width
from convflow.types import InputError

MixName = Literal["deform", "dico"]


class FlowDCNBlock(nn.Module):
    """Mix positions, then a feed-forward layer, each normed, modulated, gated and added."""

    def __init__(
        self,
        width: int,
        mix: GroupwiseMSDCN | ConvMix,
        norm: NormName,
        mlp: MLPName,
        temporal: Temporal = "none",
    ) -> None:
        super().__init__()
        self.modulation = Modulation(width, 6)
        self.norm1 = create_norm(norm, width)
        self.mix = mix
        self.temporal = create_temporal(temporal, width)
        self.norm2 = create_norm(norm, width)
        self.mlp = create_mlp(mlp, width)
        self.drop1, self.drop2 = Dropout(), Dropout()

    def forward(
        self, x: Float[Tensor, "B *F H W D"], c: Condition, reach: Reach
    ) -> Float[Tensor, "B *F H W D"]:
        """Return the refined features under condition `c`."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c)
        mixed = modulated_norm(self.norm1, x, shift1, scale1)
        mixed = self.mix(mixed, reach) if isinstance(self.mix, GroupwiseMSDCN) else self.mix(mixed)
        x = gated(x, gate1, self.drop1(self.temporal(mixed)))
        fed = self.mlp(modulated_norm(self.norm2, x, shift2, scale2))
        return gated(x, gate2, self.drop2(fed))


class FlowDCN(PatchBackbone):
    """A stack of `FlowDCNBlock`s between a patch embedding and a zero-initialised head.

    It predicts zero at initialisation, takes any rectangle that the patch divides, and has no
    position embedding: convolution alone tells where things are.
    """

    family = "flowdcn"
    options = ("reach",)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The settings of a FlowDCN.

        Attributes:
            in_channels: channels of the image in model space.
            num_classes: labels are 0 .. num_classes - 1, and `num_classes` means "no label".
            width: feature channels D.
            depth: number of blocks.
            num_groups: groups of the deformable convolution; divides `width`.
            patch_size: pixels along one side of a patch.
            reach: default of S_max, the farthest grid spacing of the deformable convolution, in
                cells.
            norm: "rms" as published, or "layer" (ablation).
            mlp: "swiglu" as published, or "gelu" (ablation).
            border: "zeros"; "truncate" reproduces the published kernels, and their weights need it.
            discard_half: let the head compute twice the channels and drop the second half, as the
                published network does; only for its weights.
            mix: "deform" as published, or "dico": DiCo's module, without groups, reach and border,
                in the same frame (Ai et al. 2025, table 12).
            kernel_size: side of the depthwise kernel of "dico". At the size S/2, 7 gives the 31.3 M
                parameters that are published, and 3, as in DiCo itself, 31.1 M.
            learned_variance: predict 2C channels, first the noise, then where the variance lies.
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
        width: Width = 384
        depth: Depth = 12
        num_groups: Width = 6
        patch_size: Width = 2
        reach: float = DEFAULT_REACH
        norm: NormName = "rms"
        mlp: MLPName = "swiglu"
        border: Border = "zeros"
        discard_half: bool = False
        mix: MixName = "deform"
        kernel_size: Width = 3
        learned_variance: bool = False
        time_scale: TimeScale = 1.0
        second_time: bool = False
        told_guidance: bool = False
        temporal: Temporal = "none"

    config: Config

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        c, width = self.config, self.config.width
        _check_reach(c.reach)
        num_outputs = outputs_per_channel(c.discard_half, c.learned_variance)
        self.in_channels, self.num_classes = c.in_channels, c.num_classes
        self.video = c.temporal != "none"
        self.learned_variance = c.learned_variance
        self.multiple, self.reach = c.patch_size, c.reach
        self.embed_patches = PatchEmbedding(c.in_channels, width, c.patch_size)
        self.embed_time = TimeEmbedding(width, scale=c.time_scale)
        self.embed_label = LabelEmbedding(c.num_classes, width)

        def create_mix() -> GroupwiseMSDCN | ConvMix:
            if c.mix == "dico":
                return ConvMix(width, c.kernel_size)
            return GroupwiseMSDCN(width, c.num_groups, c.border)

        self.blocks = nn.ModuleList(
            FlowDCNBlock(width, create_mix(), c.norm, c.mlp, c.temporal) for _ in range(c.depth)
        )
        self.project = PatchHead(width, c.patch_size, c.in_channels * num_outputs)
        self.tell_second_time(c.second_time, c.told_guidance)

    def trunk(
        self, features: Float[Tensor, "B *F h w D"], c: Condition, reach: Reach | None = None
    ) -> Float[Tensor, "B *F h w D"]:
        """Return refined features.

        Args:
            features: of the stem.
            c: of time and label.
            reach: S_max in cells for this call: a number, (x, y), or a tensor of shape (2,) for
                all blocks, (depth, 2) for each, or (B, depth, 2) for each sample too, as a
                `ReachSchedule` gives it. The numbers in a tensor never recompile a model.

        Raises:
            InputError: a reach that does not fit the network.
        """
        for block, block_reach in zip(self.blocks, self._reaches(reach), strict=True):
            features = block(features, c, block_reach)
        return features

    def check_options(self, reach: Reach | None = None) -> None:
        self._reaches(reach)

    def _reaches(self, reach: Reach | None) -> list[Reach]:
        if reach is not None and isinstance(self.blocks[0].mix, ConvMix):
            raise InputError('expected no reach, for mix="dico" has none; leave it out')
        reach = self.reach if reach is None else reach
        if isinstance(reach, Tensor) and reach.dim() in (2, 3):
            if reach.shape[-2:] != (len(self.blocks), 2):
                raise InputError(
                    f"expected a reach of shape ({len(self.blocks)}, 2), one (x, y) for each "
                    f"block, maybe of each sample, got {tuple(reach.shape)}"
                )
            return list(torch.unbind(reach, -2))
        if not isinstance(reach, Tensor):
            _check_reach(reach)
        return [reach] * len(self.blocks)


def _check_reach(reach: float | tuple[float, float]) -> None:
    """Raise InputError unless all numbers are finite and positive; tensors are not looked into."""
    numbers = reach if isinstance(reach, tuple) else (reach,)
    if not all(0 < number < float("inf") for number in numbers):
        raise InputError(f"expected a finite reach above 0, in cells, got {reach}; try 2 to 6")
