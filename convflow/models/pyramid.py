"""A pyramid: any backbone on images that are a sum of scales, each with its own flow time.

Decomposable flow matching, Haji-Ali et al. 2025 (arXiv 2506.19839), section 3.4: a stem, a time
embedding and a head for each scale around one unchanged trunk. The start from a trained network on
one scale is that of section 4.4: what is added begins at zero.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from convflow.conditions.added import Added
from convflow.conditions.labels import Conditions
from convflow.models.backbone import Backbone, ImageBackbone
from convflow.models.diffusers_parts import NoiseEmbedding
from convflow.models.families import INSIDE, build
from convflow.models.fitting import check_size
from convflow.nn.embed import TimeEmbedding
from convflow.nn.norm import residual
from convflow.nn.pyramid import (
    CoarseHead,
    CoarseStem,
    MeanHead,
    PyramidCondition,
    RepeatStem,
    StageEmbedding,
    add_conditions,
    masked,
)
from convflow.processes.decomposition import Axes, Decomposition
from convflow.types import Cond, InputError, Size, in_cells

Coarse = Literal["patch", "upsample"]

Keep = Sequence[Bool[Tensor, " B"] | None]
"""For each scale the samples in which it takes part; None for all."""


class Pyramid(Backbone):
    """A stem, a time embedding and a head for each of S scales around the trunk of one backbone.

    The features of the scales are summed on the grid of the backbone, and so are the embeddings of
    their times; the finest scale uses the backbone's own stem, time embedding and head. It predicts
    zero at initialisation and takes any rectangle of multiples of `multiple`.

    Examples:
        >>> backbone = {"family": "dit", "width": 64, "depth": 2, "num_heads": 2}
        >>> model = Pyramid(backbone=backbone, factors=[2])
        >>> coarse, fine = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 16, 16)
        >>> out = model([coarse, fine], torch.rand(3, 2), torch.tensor([1, 2, 3]))
        >>> [tuple(prediction.shape) for prediction in out]
        [(3, 4, 8, 8), (3, 4, 16, 16)]
    """

    family = "pyramid"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The settings of a Pyramid.

        Attributes:
            backbone: settings of the network inside, as `settings` gives them: its "family" and the
                family's arguments. No learned variance, no padding, no second time.
            factors: S - 1 whole numbers, between neighbouring scales from coarse to fine.
            axes: what each factor divides, see `Decomposition`: none for height and width; those
                of networks of videos may divide frames too.
            stage_embedding: add a learned vector to every condition, for the last scale that takes
                part; zero at first.
            coarse: how the coarsest scale enters: "patch", by patches that cover as much of the
                image as the finest scale's (where they would be less than a pixel, by a pixel
                shuffle); or "upsample", with its cells repeated, as the backbone's own images do,
                and its prediction averaged down, which is how `begin_from` starts.
        """

        backbone: dict[str, Any]
        factors: tuple[int, ...] = (2,)
        stage_embedding: bool = False
        coarse: Coarse = "patch"
        axes: tuple[Axes, ...] = ()

    config: Config

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if "family" not in self.config.backbone:
            raise InputError(
                f"expected a backbone as settings with a family, got {self.config.backbone!r}; "
                'try {"family": "dico"}'
            )
        inner = dict(self.config.backbone)
        self.backbone: ImageBackbone = build(inner.pop("family"), inner, INSIDE)
        self.config = dataclasses.replace(self.config, backbone=self.backbone.settings)
        self.options = self.backbone.options  # type: ignore[misc]
        for setting in ("learned_variance", "pad", "second_time"):
            if self.backbone.settings.get(setting):
                raise InputError(
                    f"expected a backbone without {setting}, for scales have no use of it, got "
                    f"{setting}={self.backbone.settings[setting]}; leave it out"
                )
        self._add_scales(Decomposition(factors=self.config.factors, axes=self.config.axes))

    def _add_scales(self, scales: Decomposition) -> None:
        """Add stems, time embeddings and heads to the backbone."""
        self.downsampling = scales.downsampling
        self.frame_downsampling = scales.frame_downsampling
        self.in_channels, self.num_classes = self.backbone.in_channels, self.backbone.num_classes
        self.video = self.backbone.video
        if scales.video and not self.video:
            raise InputError(
                "expected a network of videos for scales along time, got one of images; give it "
                "--model.temporal, or leave the axes out"
            )
        self.multiple = math.lcm(self.backbone.multiple, self.downsampling[0])
        self.frame_multiple = math.lcm(self.backbone.frame_multiple, self.frame_downsampling[0])
        added = [self._create_parts(scale) for scale in range(scales.num_scales - 1)]
        if self.config.coarse == "upsample":
            added[0] = self._repeat_parts()
        self.stems = nn.ModuleList(stem for stem, _, _ in added)
        self.times = nn.ModuleList(time for _, time, _ in added)
        self.heads = nn.ModuleList(head for _, _, head in added)
        self.stage = None
        if self.config.stage_embedding:
            make = partial(StageEmbedding, len(self.downsampling))
            self.stage = self.backbone.create_condition(make)

    @classmethod
    def from_backbone(
        cls, model: Backbone, factors: Sequence[int] = (2,), *, stage_embedding: bool = False
    ) -> Pyramid:
        """Return a pyramid that begins as a trained network on one scale.

        The coarsest scale is what the network was: `down(model(up(x), t, y))`, with repeated cells
        for `up` and means for `down`. What belongs to the other scales is zero and learns.

        Args:
            model: a trained flow, which stays as it is.
            factors: as of a `Pyramid`.
            stage_embedding: as of a `Pyramid`.

        Raises:
            InputError: a network that cannot be inside a pyramid.
        """
        pyramid = cls(
            backbone=model.settings,
            factors=factors,
            stage_embedding=stage_embedding,
            coarse="upsample",
        )
        pyramid.begin_from(model)
        return pyramid.to(next(model.parameters())).train(model.training)

    def begin_from(self, model: Backbone) -> None:
        """Take the weights of a trained network, as `from_backbone` does, and draw nothing.

        Args:
            model: a trained flow with the settings of the backbone inside, or with those of this
                pyramid.

        Raises:
            InputError: this pyramid shows the backbone no coarse images of its own resolution.
        """
        if model.num_scales > 1:
            super().begin_from(model)
            return
        stem, head = self.stems[0], self.heads[0]
        if not isinstance(stem, RepeatStem) or not isinstance(head, MeanHead):
            raise InputError(
                'expected a pyramid with coarse="upsample" to begin from a network on one scale, '
                'got "patch"; leave coarse out, or set it so'
            )
        self.backbone.begin_from(model)
        own = self.backbone.parts
        first = (stem.stem, self.times[0], head.head)
        for part, trained in zip(first, (own.stem, own.time, own.head), strict=True):
            part.load_state_dict(trained.state_dict())
        outputs = [
            layer.out
            for time in (*self.times[1:], own.time)
            for layer in time.modules()
            if isinstance(layer, TimeEmbedding | NoiseEmbedding)
        ]
        for part in (*self.stems[1:], own.stem, *outputs, *self.heads[1:], own.head):
            for parameter in part.parameters():
                nn.init.zeros_(parameter)

    def scale_parts(self) -> list[str]:
        """Return the names of the stem, the time embedding and the head of each scale."""
        own = self.backbone.parts
        parts = [own.stem, own.time, own.head, *self.stems, *self.times, *self.heads]
        known = {id(part) for part in parts} | {id(self.stage)}
        return sorted(name for name, part in self.named_modules() if id(part) in known)

    def check_options(self, **options: Any) -> None:
        self.backbone.check_options(**options)

    @property
    def inner(self) -> ImageBackbone:
        return self.backbone

    @property
    def conditions(self) -> Conditions[Any]:
        return self.backbone.conditions

    @property
    def takes_text(self) -> bool:
        return self.backbone.takes_text

    def blank_conditions(self, batch: int) -> Any:
        return self.backbone.blank_conditions(batch)

    @property
    def trunk_blocks(self) -> list[nn.Module]:
        """The blocks of the backbone."""
        return self.backbone.trunk_blocks

    def features_after(self, blocks: Iterable[int]) -> Any:
        """Return what gives the features after blocks of the backbone."""
        return self.backbone.features_after(blocks)

    def stem(
        self, scales: Sequence[Float[Tensor, "B C *_"]], keep: Keep
    ) -> Float[Tensor, "B *F h w D"]:
        """Return the features of the scales, summed on the grid of the backbone, channels last."""
        stems = (*self.stems, self.backbone.parts.stem)
        parts = [
            # Masked before and after: no number of an inactive scale enters, nor does the bias.
            masked(residual(stem(masked(x, kept))), kept)
            for stem, x, kept in zip(stems, scales, keep, strict=False)
        ]
        return sum(parts[1:], parts[0])

    def condition(self, t: Float[Tensor, "B S"], y: Cond, keep: Keep) -> PyramidCondition:
        """Return the condition of all active scales' times, the label, and the stage."""
        times = (*self.times, self.backbone.parts.time)
        parts = [self.backbone.parts.label(y)]
        for time, moment, kept in zip(times, t.unbind(1), keep, strict=False):
            parts.append(masked(time(masked(moment, kept)), kept))
        if self.stage is not None:
            parts.append(self.stage(_last_active(t, keep)))
        return add_conditions(parts)

    def trunk(self, features: Tensor, c: PyramidCondition, **arguments: Any) -> Tensor:
        """Return refined features; `arguments` are the backbone's own, such as `reach`."""
        return self.backbone.trunk(features, c, **arguments)

    def head(
        self, features: Tensor, c: PyramidCondition, keep: Keep
    ) -> tuple[Float[Tensor, "B C *_"], ...]:
        """Return the prediction of each scale, zero where it takes no part."""
        heads, seen = (*self.heads, self.backbone.parts.head), self.backbone.head_vector(c)
        return tuple(
            # Some published heads compute twice the channels, of which half is unused.
            masked(head(features, seen)[:, : self.in_channels], kept)
            for head, kept in zip(heads, keep, strict=False)
        )

    def forward(
        self,
        scales: Sequence[Float[Tensor, "B C *_"]],
        t: Float[Tensor, "B k"],
        y: Cond,
        active: Int[Tensor, " B"] | None = None,
        **arguments: Any,
    ) -> tuple[Float[Tensor, "B C *_"], ...]:
        """Predict the velocity of every scale.

        Args:
            scales: the first k of the S scales, coarse to fine; the height and width of each are
                those of the finest scale, multiples of `multiple`, over its downsampling, and so
                are the frames of videos.
            t: each scale's own flow time, in [0, 1], 0 = noise, 1 = data.
            y: labels in [0, num_classes], or texts; or `Added`.
            active: how many of the k scales take part in each sample, 1 .. k; None for all. Of
                the others nothing enters, so their numbers may be anything.
            **arguments: what the backbone's trunk takes besides, such as FlowDCN's `reach`.

        Returns:
            k predictions in the shapes of the scales, exactly zero where a scale takes no part.

        Raises:
            InputError: scales, times or counts whose shapes do not fit the network.
        """
        self._check(scales, t, active)
        keep: list[Tensor | None] = [None] * len(scales)
        if active is not None:  # the coarsest scale always takes part
            keep[1:] = [active > scale for scale in range(1, len(scales))]
        c = self.condition(t, y.cond if isinstance(y, Added) else y, keep)
        if isinstance(y, Added):
            c = add_conditions([c, y.vectors])
        features = self.trunk(self.stem(scales, keep), c, **arguments)
        return self.head(features, c, keep)

    def blank_inputs(self, batch: int, size: Size) -> tuple[Any, ...]:
        scales = [torch.empty(batch, self.in_channels, *part) for part in self._sizes(size)]
        t = torch.empty(batch, self.num_scales)
        return scales, t, self.blank_conditions(batch)

    def _sizes(self, size: Size) -> list[Size]:
        """Return the size of each scale of images or videos of a size."""
        pairs = zip(self.frame_downsampling, self.downsampling, strict=True)
        return [
            in_cells((*(count // few for count in size[:-2]), *size[-2:]), by) for few, by in pairs
        ]

    def _create_parts(self, scale: int) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Return stem, time embedding and head of a scale, on the grid of the backbone."""
        own = self.backbone.parts
        stem = CoarseStem(own.stem, self.downsampling[scale], self.frame_downsampling[scale])
        # As wide inside as the stem: of wider levels' embeddings, which see a number, this is most.
        time_scale = self.config.backbone.get("time_scale", 1.0)
        make = partial(TimeEmbedding, hidden=stem.width, scale=time_scale)
        return stem, self.backbone.create_condition(make), CoarseHead(own.head.width, stem)

    def _repeat_parts(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Return copies of the backbone's own parts, for images brought to its resolution."""
        own = self.backbone.parts
        parts = nn.ModuleList([own.stem, own.time, own.head])
        # Weights are cloned by hand: deepcopy would take those without memory out of their mode.
        clones = {id(p): nn.Parameter(p.detach().clone()) for p in parts.parameters()}
        stem, time, head = copy.deepcopy(parts, clones)
        few, by = self.frame_downsampling[0], self.downsampling[0]
        factors = by if few == 1 else (few, by, by)
        return RepeatStem(stem, factors), time, MeanHead(head, factors)

    def _check(self, scales: Sequence[Tensor], t: Tensor, active: Tensor | None) -> None:
        """Raise InputError unless the shapes fit each other and the network."""
        most = len(self.downsampling)
        if not 1 <= len(scales) <= most:
            raise InputError(
                f"expected 1 to {most} scales, coarse to fine, got {len(scales)}; "
                "this network was built for other factors"
            )
        coarse = tuple(scales[0].shape[2:])[-2 - self.video :]
        batch, few, by = len(t), self.frame_downsampling[0], self.downsampling[0]
        *frames, height, width = (1,) * (2 + self.video - len(coarse)) + coarse
        size = (*(few * count for count in frames), by * height, by * width)
        check_size(size, self.multiple, self.frame_multiple)
        shapes = [(batch, self.in_channels, *part) for part in self._sizes(size)[: len(scales)]]
        found = [tuple(x.shape) for x in scales]
        if found != shapes:
            raise InputError(
                f"expected scales of shapes {shapes}, got {found}; split images with a "
                "Decomposition of the same factors"
            )
        if t.shape != (batch, len(scales)):
            raise InputError(
                f"expected times of shape {(batch, len(scales))}, one for each sample and scale, "
                f"got {tuple(t.shape)}; give every scale its own"
            )
        if active is not None and (active.shape != (batch,) or active.is_floating_point()):
            raise InputError(
                f"expected active as {batch} whole numbers, how many scales take part in each "
                f"sample, got {active.dtype} of shape {tuple(active.shape)}"
            )


def _last_active(t: Float[Tensor, "B k"], keep: Keep) -> Int[Tensor, " B"]:
    """Return the number of the last scale that takes part in each sample."""
    last = torch.full(t.shape[:1], -1, device=t.device)
    for kept in keep:
        last = last + (1 if kept is None else kept.long())
    return last
