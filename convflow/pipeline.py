"""From a trained model to images, in the manner of a diffusers pipeline."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from convflow import distributed, hub
from convflow.bundle.averages import is_kept
from convflow.bundle.config import PipelineConfig, ResolutionConfig, SamplingConfig, usual_sampling
from convflow.bundle.folder import (
    describe_codec,
    describe_text,
    find_text,
    read_trained,
    write_description,
)
from convflow.bundle.paths import find_place
from convflow.class_names import ClassLabels, Label
from convflow.codecs import Codec, LatentCodec, image_channels
from convflow.data.grid import to_picture
from convflow.generate import Output, Samples
from convflow.masks import read_known
from convflow.models.backbone import Backbone
from convflow.models.fitting import read_size
from convflow.models.memory import MemoryEstimate
from convflow.models.resolution import SIZE_OPTIONS, read_arguments
from convflow.models.zoo import check_process, create_model
from convflow.processes.flow import FlowMatching, shift_of_size
from convflow.processes.process import Process
from convflow.prompts import asked_prompts, check_told, check_weaker, tell_empty_later
from convflow.samplers.ode import Callback
from convflow.samplers.solvers import SOLVERS, Solver, check_shift
from convflow.settings.fields import Number, Seed
from convflow.settings.read import hints_of, read_value, setting_hints, to_dict
from convflow.storage import hash_tensors
from convflow.texts import TextEncoder
from convflow.types import InputError, PrecisionChoice, Progress, Size, unknown_name

MAX_IMAGES = 10_000_000
USUAL_BATCH = 64

Asked = Sequence[Label | None] | Label | None
"""Labels by name or index; None within a list asks for no label."""

CALL_OPTIONS = (*"labels prompts size weaker seed precision num batch_size image mask".split(),)
"""Other options of a call, for messages."""


class Pipeline:
    """Generates images with a trained model.

    Args:
        model: predicts velocities; moved to `device`.
        codec: from model space to images.
        size: default height and width in pixels, usually those of training.
        class_names: names of the labels 0, 1, ...; empty when there are none.
        sampling: defaults of `samples`.
        device: "auto" takes a GPU where there is one.
        process: that the model was trained with; by default flow matching on the straight path.
        resolution: what the network is told of sizes where nothing else is given; None = nothing.
        text: what makes conditions of prompts; None for a network of labels.

    Raises:
        InputError: class names, channels, a process or texts that do not fit; no such device.

    Examples:
        >>> pipe = Pipeline.from_pretrained("runs/digits.flowdcn")  # doctest: +SKIP
        >>> out = pipe(labels=["3", "8"], size=(12, 16), seed=1)  # doctest: +SKIP
        >>> out.images[0].save("three.png")  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Backbone,
        codec: Codec,
        size: Size,
        class_names: Sequence[str] = (),
        sampling: SamplingConfig | None = None,
        device: str = "auto",
        process: Process | None = None,
        resolution: ResolutionConfig | None = None,
        text: TextEncoder | None = None,
    ) -> None:
        self.device = distributed.choose_device(device)
        self.codec = codec.open(self.device)
        channels = image_channels(self.codec, model.in_channels)
        if len(class_names) not in (0, model.num_classes) or channels is None:
            raise InputError(
                "expected a network of grey or colour images and a name for each of its "
                f"{model.num_classes} classes or none, got {model.in_channels} channels and "
                f"{len(class_names)} names"
            )
        # Convolutions find their weights as they want them, and need no copy at every call.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model.to(self.device).eval()
        self.size, self.class_names = size, tuple(class_names)
        self._labels = ClassLabels(class_names, model.num_classes)
        self.folder: Path | None = None  # of `from_pretrained`; searched solvers lie there
        self.process = process or FlowMatching()
        self.sampling = sampling or usual_sampling(self.process)
        self.resolution = resolution or ResolutionConfig()
        self.text, self.prompts = check_told(model, text).on(self.device), tuple[str, ...]()
        tell_empty_later(model, self.text)
        check_process(model, self.process)
        self.frame_multiple = math.lcm(model.frame_multiple, self.process.frame_multiple)

    @property
    def multiple(self) -> int:
        """What divides the height and width of every image, in pixels."""
        return self.codec.factor * math.lcm(self.model.multiple, self.process.multiple)

    @classmethod
    def from_pretrained(
        cls, folder_or_id: str | Path, *,
        weights: str = "ema", device: str = "auto", verify: bool = True,
        revision: str | None = None, trust_remote_code: bool = False,
    ) -> Pipeline:  # fmt: skip
        """Return the pipeline of a run, a checkpoint, a model folder, published weights, a Hub id.

        Args:
            folder_or_id: a run folder stands for its newest checkpoint. Published weights are a
                file, a folder of diffusers or a name such as "dit-xl/2-256".
            weights: "ema" for averaged ones, "raw" for the last, or a kept average ("ema-0.05").
            device: "auto" takes a GPU where there is one.
            verify: refuse NaN and infinity, and files that differ from a checkpoint's checksums.
            revision: branch, tag or commit of a Hub id; "who/what@revision" is the same.
            trust_remote_code: import code beside the weights that the settings name.

        Raises:
            InputError: nothing there, or damaged files.
        """
        if weights not in ("ema", "raw") and not is_kept(weights):
            raise InputError(unknown_name("kind of weights", weights, ("ema", "raw")))
        what, trust = hub.at_revision(folder_or_id, revision), trust_remote_code
        folder, config, model = read_trained(what, weights, verify=verify, trust_remote_code=trust)
        codec = config.codec
        if isinstance(codec, LatentCodec):
            place = find_place(codec.autoencoder, folder, inside=True)
            codec = dataclasses.replace(codec, autoencoder=place)
        pipe = cls(
            model,
            codec,
            config.size,
            class_names=config.class_names,
            sampling=config.sampling,
            device=device,
            process=config.process,
            resolution=config.resolution,
            text=find_text(config.text, folder),
        )
        pipe.folder, pipe.prompts = folder, config.prompts
        return pipe

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the network, its settings and this description to a folder; parents are made."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        self.model.save_weights(place)
        config = PipelineConfig(
            size=self.size,
            class_names=self.class_names,
            sampling=self.sampling,
            codec=describe_codec(self.codec, place),
            process=self.process,
            resolution=self.resolution,
            text=describe_text(self.text, place),
            prompts=self.prompts,
        )
        write_description(place, config)

    def __call__(
        self,
        labels: Asked = None,
        *,
        num: int | None = None,
        batch_size: int = 64,
        progress: Progress | None = None,
        watch: Callback | None = None,
        **options: Any,
    ) -> Output:
        """Generate images; the noise of image i depends on (seed, i) alone.

        Args:
            labels: class names or indices, given to the images in turn; None within the list
                asks for no label. By default all classes in turn. A name goes before an index.
            num: number of images; by default one per label or prompt given, else 16.

        Other arguments:
            batch_size: images at once; changes memory and speed, not the images.
            progress: called with the (fractional) number of images done since the last call.
            watch: told of every step of every batch, see `Samples.read`.
            **options: prompts, size, steps, guidance, seed and whatever else `samples` takes.

        Raises:
            InputError: an unknown label, an impossible size, a number out of range.
        """
        samples = self.samples(labels, **options)
        usual = 16 if labels is options.get("prompts") is None else len(samples.classes)
        num = read_value(usual if num is None else num, Number, "num")
        batch_size = read_value(batch_size, Number, "batch_size")
        if num > MAX_IMAGES:
            raise InputError(
                f"expected at most {MAX_IMAGES:,} images, which are all held in memory, got "
                f"{num}; take fewer, or read parts of `samples`"
            )
        self.check_batch(samples, min(batch_size, num))
        if samples.prompts is not None:
            samples.prompts.say_cut()
        chunks = [range(at, min(at + batch_size, num)) for at in range(0, num, batch_size)]
        pixels = torch.cat([samples.read(chunk, progress, watch) for chunk in chunks])
        names = samples.names(range(num), self.name_of)
        return Output([to_picture(image) for image in pixels], names, pixels)

    def samples(
        self,
        labels: Asked = None,
        *,
        size: Size | int | None = None,
        weaker: Backbone | Pipeline | None = None,
        seed: int = 0,
        precision: PrecisionChoice = "float32",
        **settings: Any,
    ) -> Samples:
        """Return the endless series of images that these settings define; none is made yet.

        What is not given is taken from `sampling`, unless it means nothing beside what is given:
        another solver has other settings.

        Args:
            labels: class names or indices, see `__call__`.
            size: height and width in pixels, multiples of the model's `multiple`; one number
                stands for a square.
            weaker: for the guidance "auto"; a Pipeline's process must be that of this one.
            seed: any non-negative integer.
            precision: of the network's arithmetic: float32, bfloat16, or auto for bfloat16 where
                the hardware multiplies it. The image itself is summed in float32.
            **settings: of `SamplingConfig`, of the solver or of the network, see `choose`; `image`
                and `mask`, white where to draw the image anew, see `convflow.masks.read_known`;
                `prompts`, a text or several, by default examples that the model keeps.

        Raises:
            InputError: an unknown label or name, an impossible size, a number out of range.
        """
        size = self._size(size)
        image, mask = settings.pop("image", None), settings.pop("mask", None)
        prompts = asked_prompts(self.text, self.prompts, settings.pop("prompts", None), labels)
        classes = self._label_ids(labels) if prompts is None else range(len(prompts.texts))
        return Samples(
            self.model,
            self.codec,
            self.process,
            **self.choose(size, settings),
            known=read_known(image, mask, size, self.model.in_channels, self.codec),
            classes=tuple(classes),
            prompts=prompts,
            trained_size=self.size,
            weaker=self._weaker(weaker),
            seed=read_value(seed, Seed, "seed"),
            precision=distributed.choose_precision(
                read_value(precision, PrecisionChoice, "precision"), self.device
            ),
        )

    def choose(self, size: Size, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of `Samples` that settings by name define for a size in pixels.

        They are those of `SamplingConfig`: `solver` (a name in `convflow.samplers.solvers.SOLVERS`
        or a solver), `guidance` (1 for none; "cfg" and "cfg-zero" need classes), `guidance_kind`
        ("auto" with a `weaker` model of the same data), `interval`, `channels_guided` ("all" too)
        and `label_policy`. Those of the solver: `steps` are by default the sum of `stage_steps`,
        where these are given; the shift "auto" is `shift_of_size` times that of the recipe. And
        arguments of the network at every call, such as `reach` of FlowDCN and `position_scaling`
        of DiT and SiT, see `read_arguments`; "none" for what it was trained with and shall do
        without.

        Raises:
            InputError: an unknown name, or a value that does not fit.
        """
        model_kwargs, given = self._sort(settings)
        automatic = given.get("guidance_kind") == "auto"  # it needs a model, so is never stored
        if automatic:
            del given["guidance_kind"]
        if given.get("shift") == "auto":
            del given["shift"]
            check_shift(self.sampling.varied(self.process, **given).solver, self.process)
            stored = getattr(self.sampling.solver, "shift", 1.0)
            given["shift"] = stored * shift_of_size(size, self.size)
        chosen = self.sampling.varied(self.process, **given)
        solver = chosen.solver.beside(self.folder)
        unguided = not self.model.conditional and not automatic
        if unguided and given.get("guidance", 1) != 1:
            raise InputError(
                f"expected guidance 1 for a model without classes, got {chosen.guidance}; leave it "
                "out, or give a weaker model and the guidance kind auto"
            )
        solver.check(self.process)
        solver.check_scale(1.0 if unguided else chosen.guidance)
        return {
            **vars(chosen),
            "solver": solver,
            "size": solver.size(self.process, size, self.codec.factor, self.codec.frame_factor),
            "guidance": 1.0 if unguided else chosen.guidance,
            "guidance_kind": "auto" if automatic else chosen.guidance_kind,
            "model_kwargs": read_arguments(self.model, self.resolution.arguments() | model_kwargs),
        }

    def _sort(self, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return arguments of the network, and what is given in place of stored settings."""
        solver, parts = settings.get("solver"), {*SOLVERS.values(), type(self.sampling.solver)}
        if isinstance(solver, str | Solver):
            parts.add(SOLVERS.find(solver) if isinstance(solver, str) else type(solver))
        known = {*hints_of(SamplingConfig), *(name for cls in parts for name in setting_hints(cls))}
        model_kwargs = {n: value for n, value in settings.items() if n not in known}
        options = {*self.model.options, *SIZE_OPTIONS}
        for name in model_kwargs.keys() - options:
            every = {*CALL_OPTIONS, *options, *known}
            raise InputError(unknown_name("option", name, sorted(every)))
        given = {n: value for n, value in settings.items() if n in known}
        for name in ("steps", *hints_of(SamplingConfig)):  # None stands for what is stored
            if given.get(name, ...) is None:
                del given[name]
        return model_kwargs, {n: None if str(v) == "all" else v for n, v in given.items()}

    def _size(self, size: Any) -> Size:
        """Return a size that the model takes."""
        few = self.codec.frame_factor
        found = read_size(size, self.size, self.multiple, self.frame_multiple, few)
        self.codec.check_size(found)
        return found

    def _weaker(self, weaker: Backbone | Pipeline | None) -> Backbone | None:
        """Return the weaker network, if it is asked and answers as one trained by the process."""
        if isinstance(weaker, Pipeline):
            for key, (ours, theirs) in self.process.misfits(weaker.process).items():
                raise InputError(
                    f"expected a weaker model with the process {key} {ours}, as the other has, got "
                    f"{theirs}; choose another"
                )
            check_weaker(self.text, weaker.text)
            weaker = weaker.model
        return None if weaker is None else weaker.to(self.device).eval()

    def check_batch(self, samples: Samples, batch_size: int) -> None:
        """Raise InputError when a batch of samples that is larger than usual cannot fit."""
        if batch_size * math.prod(samples.size) <= USUAL_BATCH * math.prod(self.size):
            return
        settings = dict(self.model.settings)
        estimate = MemoryEstimate(
            functools.partial(create_model, settings.pop("family"), **settings),
            samples.size,
            batch_size,
            self.codec.factor,
            half=samples.precision == "bfloat16",
            evaluations=1 + (samples.guidance != 1),
            frame_factor=self.codec.frame_factor,
        )
        estimate.check(distributed.free_memory(self.device), "batch-size")

    def describe(self, name: str = "", weights: str = "ema") -> dict[str, Any]:
        """Return what a result card says of the model: its name, network, process and weights.

        Args:
            name: what the model is called; by default as its folder.
            weights: which of a run's weights these are, "ema" or "raw".
        """
        scales = self.model.num_scales > 1
        return {
            "name": name or (self.folder.resolve().name if self.folder else self.model.family),
            "folder": str(self.folder),
            "weights": weights,
            "family": self.model.family,
            **({"backbone": self.model.inner.family} if scales else {}),
            "process": to_dict(self.process),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "sha256": hash_tensors(self.model.state_dict()),
        }

    def _label_ids(self, labels: Asked) -> list[int]:
        null = self.model.num_classes
        if labels is None:
            return list(range(null)) or [null]
        single = isinstance(labels, str | bytes) or getattr(labels, "ndim", 1) == 0
        one = single or not isinstance(labels, Iterable)
        chosen: list[Any] = [labels] if one else list(labels)  # type: ignore[arg-type]
        if not chosen:
            raise InputError("expected at least one label, got an empty list")
        return [null if label is None else self._labels.find(label) for label in chosen]

    def name_of(self, label: int) -> str:
        """Return the name of a label, its number where it has none, "" for "no label"."""
        if label == self.model.num_classes:
            return ""
        return self.class_names[label] if self.class_names else str(label)
