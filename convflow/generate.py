"""An endless, reproducible series of images or videos drawn from a trained model.

Every image is made here: previews of a training, those of `convflow sample` and of pipelines, and
those that `convflow evaluate` scores.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from convflow import distributed
from convflow.codecs import Codec, PixelCodec, image_channels
from convflow.models.backbone import Backbone
from convflow.models.half import cast_weights
from convflow.models.resolution import Resolution
from convflow.models.zoo import check_process
from convflow.processes.contract import Field, Process
from convflow.prompts import Prompts
from convflow.samplers.guidance import guide
from convflow.samplers.inpainting import Known, check_known, put_back
from convflow.samplers.ode import Callback
from convflow.samplers.solver import Solver
from convflow.seeds import SEED_RULE, LabelPolicy, assign_labels, draw_labels, draw_noise
from convflow.settings.read import to_dict
from convflow.storage import hash_tensors
from convflow.types import (
    Cond,
    Denoiser,
    InputError,
    Precision,
    Progress,
    Size,
    frames_text,
    nearest_size,
    size_text,
)

LITTLE_WORK = 2e9
"""An evaluation of fewer multiply-accumulates runs on one thread: see docs/performance.md."""

NAMED_PROMPTS = 64
"""Of more prompts a result card has their checksum alone."""
OF_KNOWN_LIBRARIES = ("convflow.", "torch.nn.modules.", "diffusers.models.")
"""What begins the modules whose classes are known."""

PREVIEWS = 8
"""About so many running images are shown, unless told otherwise."""


@dataclass
class Output:
    """Generated images or videos with their labels.

    Attributes:
        images: one PIL image per sample; of a video the list of its frames.
        labels: class names, or numbers where the model has no names; "" for no label. Of a model
            that is told texts, the prompts.
        pixels: the same as one uint8 tensor on the CPU, (N, C, H, W) or (N, C, F, H, W).
    """

    images: list[Any]
    labels: list[str]
    pixels: UInt8[Tensor, "N C *F H W"]


@dataclass(frozen=True)
class Samples:
    """An endless series of images: the i-th depends on these settings and i alone.

    `Pipeline.samples` makes it, and `Pipeline.choose` explains the settings. `classes` holds label
    numbers, or those of `prompts`, `size` is that of the result, and `trained_size` that of
    training.
    """

    reproducible: ClassVar[bool] = True

    model: Backbone
    codec: Codec
    process: Process
    classes: tuple[int, ...]
    size: Size
    trained_size: Size
    solver: Solver
    guidance: float
    guidance_kind: str
    interval: tuple[float, float]
    channels_guided: int | None
    weaker: Backbone | None
    seed: int
    label_policy: LabelPolicy
    precision: Precision
    model_kwargs: dict[str, Any]
    known: Known | None = None
    prompts: Prompts | None = None

    def __post_init__(self) -> None:
        """Raise InputError now rather than at the first image."""
        check_process(self.model, self.process)
        self.solver.check(self.process, self.guidance_kind)
        self.solver.check_scale(self.guidance)
        if self.process.multiscale and self.guidance_kind == "auto":
            raise InputError(
                "expected the guidance cfg or cfg-zero for a model trained with the process "
                f"{self.process.kind}, got auto; leave out the weaker model"
            )
        if (self.channels_guided or 1) > self.model.in_channels:
            raise InputError(
                f"expected at most {self.model.in_channels} guided channels, all that the model "
                f"has, got {self.channels_guided}; give fewer, or all"
            )
        auto = self.guidance_kind == "auto"
        if auto and self.weaker is not None and self.weaker.num_scales > 1:
            raise InputError(
                "expected a weaker model of one scale, as the other is, got a pyramid of scales; "
                "choose another"
            )
        if self.weaker is not None:
            ours, theirs = (
                f"{model.in_channels} channels and {_asked(model)}"
                for model in (self.model, self.weaker)
            )
            if ours != theirs:
                raise InputError(f"expected a weaker model of {ours} too, got one of {theirs}")
            check_process(self.weaker, self.process)
            self._check_size_of(self.weaker)
            self.resolution.check(self.weaker, self.model_kwargs)
        self.resolution.check(self.model, self.model_kwargs)
        if self.known is not None:
            check_known(self.process, self.solver)
        self.guided(Field)

    def _check_size_of(self, weaker: Backbone) -> None:
        """Raise InputError unless a weaker model takes images of this size too."""
        multiple = self.codec.factor * math.lcm(self.model.multiple, weaker.multiple)
        frames = math.lcm(self.model.frame_multiple, weaker.frame_multiple)
        near = nearest_size(self.size, multiple, frames, self.codec.frame_factor)
        if near != self.size:
            few = f", and {frames_text(frames, self.codec.frame_factor)}" if frames > 1 else ""
            raise InputError(
                f"expected a height and width that the weaker model takes, multiples of {multiple}"
                f"{few}, got {size_text(self.size)}; the nearest that works is {size_text(near)}"
            )

    @property
    def channels(self) -> int:
        """Channels of the images: 1 for grey, 3 for colour."""
        channels = image_channels(self.codec, self.model.in_channels)
        assert channels is not None, "Pipeline checks it"
        return channels

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels and sides of the noise in model space, where whole images are made."""
        return self.model.in_channels, *self.solver.enlarged(
            self.process, self.codec.cells(self.size)
        )

    @property
    def resolution(self) -> Resolution:
        """How large whole images are beside those of training, in pixels of model space."""
        return Resolution(self.shape[1:], self.codec.cells(self.trained_size))

    def labels(self, indices: Sequence[int]) -> Int[Tensor, " B"]:
        """Return the label numbers of the images `indices`, or those of their prompts."""
        if self.label_policy == "random":
            return draw_labels(self.seed, indices, self.classes)
        return assign_labels(indices, self.classes)

    def conditions(self, indices: Sequence[int]) -> Cond:
        """Return what the network is told of the images `indices`, on its device."""
        device = next(self.model.parameters()).device
        labels = self.labels(indices)
        if self.prompts is None:
            return labels.to(device)
        return tree_map(lambda part: part.to(device), self.prompts.conditions(labels.tolist()))

    def names(self, indices: Sequence[int], name_of: Callable[[int], str]) -> list[str]:
        """Return the prompts of the images `indices`, or what `name_of` says of their labels."""
        labels = self.labels(indices).tolist()
        if self.prompts is not None:
            return [self.prompts.texts[label] for label in labels]
        return [name_of(label) for label in labels]

    @torch.inference_mode()
    def read(
        self,
        indices: Sequence[int],
        progress: Progress | None = None,
        watch: Callback | None = None,
    ) -> UInt8[Tensor, "B C *F H W"]:
        """Make the images `indices` in one batch; they come back on the CPU.

        Args:
            indices: numbers of the images.
            progress: told how many more images are done.
            watch: told of every step: its number from 1, their number, and the running images in
                model space, which `show` makes visible.

        Raises:
            InputError: the model gives NaN or infinity.
        """
        x = self.sample(indices, progress, watch)
        finite = x.isfinite().flatten(1).all(1).cpu()
        if not finite.all():
            raise InputError(
                f"the model gives NaN or infinity for sample {indices[int(finite.int().argmin())]};"
                " use an earlier checkpoint, more steps or less guidance"
            )
        return self.show(x)

    def show(self, x: Float[Tensor, "B C *_"]) -> UInt8[Tensor, "B K *_"]:
        """Return images in model space, finished or running, as pixels on the CPU."""
        pixels = self.codec.decode(x).cpu()
        return pixels if self.known is None else self.known.paste(pixels)

    def preview_steps(self, every: int | None = None) -> list[int]:
        """Return the steps after which running images tell most: some, each stage's last, the last.

        Args:
            every: steps between two of them; by default such that there are about eight.
        """
        ends = self.solver.stage_ends(self.process)
        every = every or math.ceil(ends[-1] / PREVIEWS)
        return sorted({*range(every, ends[-1] + 1, every), *ends})

    @torch.inference_mode()
    def sample(
        self,
        indices: Sequence[int],
        progress: Progress | None = None,
        watch: Callback | None = None,
    ) -> Float[Tensor, "B C *_"]:
        """Return the images in model space, on the device of the model, whatever their numbers.

        Arguments are those of `read`.
        """

        def report(step: int, of: int, x: Tensor) -> None:
            if progress is not None:
                progress(len(indices) / of)
            if watch is not None:
                watch(step, of, x)

        def draw(step: int) -> Tensor:
            return draw_noise(self.seed, indices, self.shape, step)

        device = next(self.model.parameters()).device
        noise = draw_noise(self.seed, indices, self.shape).to(device)
        labels = self.conditions(indices)
        half = self.precision == "bfloat16"
        alone = device.type == "cpu" and self._work(len(indices)) < LITTLE_WORK
        with (
            distributed.one_thread(alone),
            torch.autocast(device.type, torch.bfloat16, enabled=half),
        ):
            made = self._in_half() if half else self

            def guided(field_of: Callable[[Denoiser], Field]) -> Field:
                field = made.guided(field_of)
                known = self.known
                return put_back(field, self.process.path, known, noise) if known else field

            return self.solver.run(self.process, guided, noise, labels, draw, report)

    def _in_half(self) -> Samples:
        """Return these samples with networks whose weights are cast once for all steps."""

        def cast(network: Backbone) -> Backbone:
            return cast_weights(network) if _is_plain(network) else network

        weaker = None if self.weaker is None else cast(self.weaker)
        return replace(self, model=cast(self.model), weaker=weaker)

    def _work(self, num: int) -> float:
        """Return about how many multiply-accumulates an evaluation for `num` images takes.

        Each weight counts once for each token at the network's coarsest, which is right within a
        factor of two. Networks that are compiled or not of the library have no bound.
        """
        networks = [self.model] if self.weaker is None else [self.model, self.weaker]
        if not all(map(_is_plain, networks)):
            return math.inf
        weights = [sum(w.numel() for w in n.parameters()) / n.multiple**2 for n in networks]
        twice = 1 + (self.guidance != 1 and self.weaker is None)
        return num * math.prod(self.shape[1:]) * twice * sum(weights)

    def guided(self, field_of: Callable[[Denoiser], Field]) -> Field:
        """Return the field of the model with guidance.

        Args:
            field_of: makes the field of a network.
        """
        more: dict[str, Any] = {"interval": self.interval, "channels": self.channels_guided}
        if self.weaker is not None:
            more["weaker"] = field_of(self._network(self.weaker)).predict
        scale, kind, null = self.guidance, self.guidance_kind, self.model.conditions.null
        around = partial(guide, null=null, scale=scale, kind=kind, **more)
        return field_of(self._network(self.model)).guided(around)

    def velocity(self) -> Field:
        """Return the guided velocity of images in flow time.

        Raises:
            InputError: images with several times.
        """
        process = self.process
        if process.multiscale:
            raise InputError(
                "expected a process with one time for the whole image, to predict its velocity, "
                f"got {process.kind} with one for each scale; sample it with a solver of fixed "
                "cost, without a search"
            )
        (stage,), noise = self.solver.stages(process), torch.empty(0, *self.shape)
        return self.guided(lambda network: process.field(network, stage, noise))

    def _network(self, model: Backbone) -> Denoiser:
        """Return a network with what it is told besides, as far as it takes that.

        Its answers are copies: a network compiled to CUDA graphs writes the next one over the last.
        """
        given = self.model_kwargs
        network = self.resolution.network(model, given, self.process.flow_time) if given else model
        return lambda *inputs: tree_map(Tensor.clone, network(*inputs))

    def describe(self) -> dict[str, Any]:
        """Return everything but the model that the images depend on, ready for JSON."""
        return {
            **self.solver.describe(self.process),
            "guidance": {
                "kind": self.guidance_kind,
                "scale": self.guidance,
                "interval": list(self.interval),
                "channels": self.channels_guided or "all",
                "weaker": self.weaker and hash_tensors(self.weaker.state_dict()),
            },
            **self._describe_asked(),
            "seed": self.seed,
            "seed_rule": SEED_RULE,
            "size": list(self.size),
            "codec": self._describe_codec(),
            "precision": self.precision,
            "model_arguments": self.resolution.describe(self.model_kwargs),
            **({} if self.known is None else {"known": self.known.describe()}),
        }

    def _describe_asked(self) -> dict[str, Any]:
        """Return the labels or prompts of the images, of many prompts their SHA-256 alone."""
        if (prompts := self.prompts) is not None:
            texts = list(prompts.texts)
            shown = {"texts": texts} if len(texts) <= NAMED_PROMPTS else {}
            whole = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
            more = {"count": len(texts), "sha256": whole, "encoder": prompts.encoder.told}
            return {"prompts": {"policy": self.label_policy, **more, **shown}}
        every = self.classes == tuple(range(self.model.num_classes))
        classes = "all" if every else list(self.classes)
        return {"labels": {"policy": self.label_policy, "classes": classes}}

    def _describe_codec(self) -> str | dict[str, Any]:
        """Return the name of the pixels' codec, of others the settings and the hash of weights."""
        if isinstance(self.codec, PixelCodec):
            return type(self.codec).__name__
        network = self.codec.network
        weights = {} if network is None else {"sha256": hash_tensors(network.state_dict())}
        return to_dict(self.codec) | weights


def _asked(model: Backbone) -> str:
    """Return what a network is told, for a message."""
    if not model.takes_text:
        return f"{model.num_classes} classes"
    config: Any = model.inner.config
    rows = getattr(config, "text_rows", 0)
    each = f"in {rows} rows" if rows else f"{config.text_width} wide"
    return f"texts of {config.text_length} tokens {each}"


def _is_plain(network: nn.Module) -> bool:
    """Return whether all modules do what their known classes say, uncompiled."""
    for module in network.modules():
        if not type(module).__module__.startswith(OF_KNOWN_LIBRARIES):
            return False
        if any(callable(own) and hasattr(type(module), n) for n, own in vars(module).items()):
            return False
    return True
