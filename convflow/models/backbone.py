"""What every network has in common: its settings, its folder on disk, its checks of the input."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from convflow.conditions.added import Added
from convflow.conditions.labels import Conditions, Labels
from convflow.models.fitting import check_batch, check_size
from convflow.models.observed import Observed
from convflow.models.text import attend_to_text, blank_text, create_text_embedding
from convflow.nn.conv import ConvHead, ConvStem
from convflow.nn.embed import PatchEmbedding, PatchHead, TimeEmbedding, Times
from convflow.nn.norm import Condition, add, residual
from convflow.nn.pyramid import add_conditions
from convflow.nn.resample import LevelConditions, Levels, LevelVectors, mirror
from convflow.settings.read import read
from convflow.types import Cond, InputError, Size


class Parts(NamedTuple):
    """The modules around a trunk, of which each scale of a pyramid has its own (but the label)."""

    stem: nn.Conv2d
    """Images (B, C, H, W) to features (B, h, w, D)."""
    time: nn.Module
    """Times (B,) to a vector (B, D), or to one for each level."""
    label: Any
    """Labels (B,) likewise, or texts."""
    head: PatchHead | ConvHead
    """Features, and the vector that heads see, to images."""


class Backbone(Observed, PyTorchModelHubMixin, library_name="convflow", tags=["convflow"]):
    """A network that a process trains: its settings, and its folder on disk.

    A subclass declares its settings as a frozen dataclass `Config`, whose values JSON can hold;
    they are stored beside the weights. `save_pretrained`, `from_pretrained` and `push_to_hub` come
    from huggingface_hub and use safetensors.

    Args:
        **settings: fields of `Config`.

    Raises:
        InputError: an unknown setting, or a value that does not fit.
    """

    Config: ClassVar[type[Any]]
    family: str
    """The name under which the network is found again; of a user's own, `package.module:Name`."""
    options: ClassVar[tuple[str, ...]] = ()
    """What `trunk` takes by name beside features and condition, such as `reach`."""
    in_channels: int
    num_classes: int
    multiple: int
    """Height and width must be multiples of this many pixels."""
    frame_multiple: int = 1
    """The frames of a video must be a multiple of this many."""
    video: bool = False
    """It takes videos (B, C, F, H, W) in place of pictures (B, C, H, W)."""
    learned_variance: bool = False
    """Twice the channels come out: the prediction, then the variance's place in its bounds."""
    second_time: bool = False
    """It is told two times, (B, 2), between which it predicts what is so on average."""
    told_guidance: bool = False
    """It is told a scale of guidance beside them, (B, 3)."""
    downsampling: tuple[int, ...] = (1,)
    """How many times shorter than the image's the sides of each scale are, coarse to fine."""
    frame_downsampling: tuple[int, ...] = (1,)
    """How many times fewer frames than the video each scale has, coarse to fine."""

    @property
    def num_scales(self) -> int:
        """How many scales an image has, S; with one it is the image itself."""
        return len(self.downsampling)

    @property
    def conditions(self) -> Conditions[Any]:
        """What can be done with the conditions that it is told."""
        return Labels(self.num_classes)

    @property
    def takes_text(self) -> bool:
        """Whether it is told texts, and no labels."""
        return False

    @property
    def conditional(self) -> bool:
        """Whether it can be asked for anything: it is told labels or texts."""
        return self.num_classes > 0 or self.takes_text

    @property
    def inner(self) -> ImageBackbone:
        """The network on one image inside; of a network on one image itself."""
        raise InputError(
            f"expected a network of stem, condition, trunk and head, got {self.family}; derive it "
            "from ImageBackbone"
        )

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        # Of the class as it is now: an engine that shards a network may put its own in its place.
        network = type(self)
        self.family = vars(network).get("family", f"{network.__module__}:{network.__qualname__}")
        self.config = read(settings, self.Config, place=f"{self.family}.")

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that build this network again, with the family's name, as JSON has them."""
        return json.loads(json.dumps({"family": self.family, **dataclasses.asdict(self.config)}))

    def check_options(self) -> None:
        """Raise InputError when `forward` would, for its options: here there are none."""

    def begin_from(self, model: Backbone) -> None:
        """Take the weights of a trained network of the same settings, which may be told less.

        Of pictures it may be where this one is of videos: what looks along time stays as it is,
        which in a new network changes nothing but where attention sees all frames at once.
        """
        new = [".span."] * (self.second_time > model.second_time)
        new += [".guide."] * (self.told_guidance > model.told_guidance)
        new += [".temporal."] * (self.video > model.video)
        added = {n: w for n, w in self.state_dict().items() if any(part in n for part in new)}
        try:
            self.load_state_dict(added | model.state_dict())
        except RuntimeError as error:  # of a user's network, which may build what it likes
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"expected weights that fit {self.family}, got others ({reason}); use the same code"
            ) from error

    def save_weights(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write `model.safetensors` and `config.json` into an existing folder.

        Args:
            folder: where to write; what `convflow.load_model` reads.
            weights: a state dict to store instead of this network's own, for averaged weights.
        """
        state = self.state_dict() if weights is None else weights
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        self.save_settings(folder)

    def save_settings(self, folder: Path) -> None:
        """Write `config.json` into an existing folder, from which the network is built again."""
        text = json.dumps(self.settings, indent=2, sort_keys=True)
        (folder / "config.json").write_text(text, encoding="utf-8", newline="\n")

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save_weights(save_directory)

    @classmethod
    def _from_pretrained(cls, *, family: str | None = None, **given: Any) -> Backbone:
        """Read a folder, whose `family` is no field of `Config`."""
        return super()._from_pretrained(**given)

    def blank_inputs(self, batch: int, size: Size) -> tuple[Any, ...]:
        """Return arguments of `forward` without numbers, for images or videos of a size."""
        x = torch.empty(batch, self.in_channels, *size)
        more = (1 + self.second_time + self.told_guidance,) if self.second_time else ()
        return x, torch.empty(batch, *more), self.blank_conditions(batch)

    def blank_conditions(self, batch: int) -> Any:
        """Return conditions without numbers: labels, or texts."""
        return torch.empty(batch, dtype=torch.int64)


class ImageBackbone(Backbone):
    """A Denoiser made of four parts: `stem`, `condition`, `trunk` and `head`."""

    def tell_second_time(self, wanted: bool, guidance: bool = False) -> None:
        """Let the network take a second time, and `guidance`, where wanted; both add 0 at first."""
        self.second_time, self.told_guidance = wanted, guidance
        for module in [m for m in self.parts.time.modules() if isinstance(m, TimeEmbedding)]:
            if wanted:
                module.tell_span()
            if guidance:
                module.tell_guidance()

    @property
    def inner(self) -> ImageBackbone:
        """The network itself."""
        return self

    @property
    def conditions(self) -> Conditions[Any]:
        """What can be done with the labels or texts that it is told."""
        return self.parts.label.conditions if self.takes_text else super().conditions

    @property
    def takes_text(self) -> bool:
        return getattr(self.config, "text_width", 0) > 0

    def take_text(self, widths: int | Sequence[int]) -> None:
        """Let the network be told texts where its settings say so; `widths` of its conditions."""
        if (label := create_text_embedding(self.config, widths)) is not None:
            self.place_label(label)
            attend_to_text(self.trunk_blocks, self.config, widths)

    def place_label(self, label: nn.Module) -> None:
        """Put what tells the network of texts in the place of the label's embedding."""
        raise NotImplementedError

    def blank_conditions(self, batch: int) -> Any:
        if not self.takes_text:
            return super().blank_conditions(batch)
        return blank_text(self.config, batch)

    def stem(self, x: Float[Tensor, "B C *F H W"]) -> Tensor:
        """Return features of noisy images, channels last."""
        raise NotImplementedError

    def condition(self, t: Times, y: Cond) -> Any:
        """Return what time and label tell the other parts: a vector, or one for each level."""
        raise NotImplementedError

    def trunk(self, features: Tensor, c: Any) -> Tensor:
        """Return refined features; it takes the `options` of the class by name too."""
        raise NotImplementedError

    def head(self, features: Tensor, c: Any) -> Tensor:
        """Return the prediction, channels first."""
        raise NotImplementedError

    def forward(
        self,
        x: Float[Tensor, "B C *F H W"],
        t: Times,
        y: Cond,
        **options: Any,
    ) -> Float[Tensor, "B O *_"]:
        """Predict what the process trains.

        Args:
            x: noisy images or videos; height and width multiples of `multiple`.
            t: times as the process counts them; with a `second_time` two for each image.
            y: labels in [0, num_classes], or texts; or `Added`.
            **options: as `trunk` takes them.

        Returns:
            As tall and wide as `x`, or as what a stem has mirrored it to; O is 2C where the
            variance is learned, else C.

        Raises:
            InputError: a channel count, size or option that does not fit the network.
        """
        self.check_input(x)
        c = self.condition(t, y.cond if isinstance(y, Added) else y)
        if isinstance(y, Added):
            c = add_conditions([c, y.vectors])
        return self.head(self.trunk(self.stem(x), c, **options), c)

    @property
    def parts(self) -> Parts:
        """The modules around the trunk; what a `Pyramid` copies for its scales."""
        raise NotImplementedError

    def create_condition(self, make: Callable[[int], nn.Module]) -> nn.Module:
        """Return a new part of the condition: `make(width)`, for each level where there are any."""
        raise NotImplementedError

    def head_vector(self, c: Any) -> Any:
        """Return what the head sees of a condition."""
        return c

    def check_input(self, x: Tensor) -> None:
        """Raise InputError unless the channels and sides of `x` fit this network."""
        check_batch(x, self.in_channels, self.video)
        check_size(tuple(x.shape[2:]), self.multiple, self.frame_multiple)


class PatchBackbone(ImageBackbone):
    """A network on a grid of patches: embeddings in front of the blocks, `PatchHead` behind."""

    embed_patches: PatchEmbedding
    embed_time: nn.Module
    embed_label: nn.Module
    project: PatchHead

    @property
    def parts(self) -> Parts:
        return Parts(self.embed_patches, self.embed_time, self.embed_label, self.project)

    def place_label(self, label: nn.Module) -> None:
        self.embed_label = label

    def create_condition(self, make: Callable[[int], nn.Module]) -> nn.Module:
        """Return a new part of the condition, one vector."""
        return make(self.embed_patches.out_channels)

    def stem(self, x: Float[Tensor, "B C *F H W"]) -> Float[Tensor, "B *F h w D"]:
        """Return features on the patch grid, channels last; float32 under autocast too."""
        return residual(self.embed_patches(x))

    def condition(self, t: Times, y: Cond) -> Condition:
        return add(self.embed_label(y), self.embed_time(t))

    def head(
        self, features: Float[Tensor, "B *F h w D"], c: Condition
    ) -> Float[Tensor, "B O *F H W"]:
        """Return the prediction, the unused half of some published heads dropped."""
        out = self.project(features, c)
        return out if self.learned_variance else out[:, : self.in_channels]


class LevelBackbone(ImageBackbone):
    """A network with a condition for each level: `embed` in front of the trunk, `project` behind.

    Attributes:
        cells: an image is mirrored to multiples of this many pixels before it enters.
        last_level: the level whose condition the head sees.
    """

    cells: int
    last_level: int = 0
    embed: PatchEmbedding | ConvStem
    embed_condition: LevelConditions
    project: PatchHead | ConvHead

    @property
    def parts(self) -> Parts:
        c = self.embed_condition
        return Parts(self.embed, c.time, c.label, self.project)

    def place_label(self, label: nn.Module) -> None:
        self.embed_condition.label = label

    def create_condition(self, make: Callable[[int], nn.Module]) -> nn.Module:
        """Return a new part of the condition, a vector for each level."""
        return Levels(make, self.embed_condition.widths)

    def stem(self, x: Float[Tensor, "B C *F H W"]) -> Float[Tensor, "B *F h w D"]:
        """Return features, channels last; float32 under autocast too."""
        return residual(self.embed(mirror(x, self.cells)))

    def condition(self, t: Times, y: Cond) -> LevelVectors:
        return self.embed_condition(t, y)

    def head_vector(self, c: LevelVectors) -> Condition:
        """Return the condition of the level on which the trunk ends."""
        return c[self.last_level]

    def head(
        self, features: Float[Tensor, "B *F h w E"], c: LevelVectors
    ) -> Float[Tensor, "B O *F H W"]:
        """Return the prediction, O = 2C channels where the variance is learned, else C."""
        return self.project(features, self.head_vector(c))

    def forward(
        self,
        x: Float[Tensor, "B C *F H W"],
        t: Times,
        y: Cond,
        **options: Any,
    ) -> Float[Tensor, "B O *F H W"]:
        """Predict what the process trains; what the mirror of a stem has added is cut off."""
        return super().forward(x, t, y, **options)[..., : x.shape[-2], : x.shape[-1]]
