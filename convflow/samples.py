"""An endless, reproducible series of pictures drawn from a trained model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from convflow.codecs import PixelCodec
from convflow.models.backbone import Backbone
from convflow.processes.multiscale import MultiscaleFlow
from convflow.processes.process import Process
from convflow.samplers.ancestral import ANCESTRAL_SOLVERS
from convflow.samplers.guidance import Clock, guide
from convflow.samplers.ode import Callback
from convflow.samplers.sampler import Sampler
from convflow.samplers.seeds import SEED_RULE, assign_labels, draw_labels, draw_noise
from convflow.storage import hash_tensors
from convflow.types import Denoiser, InputError, Size

LabelPolicy = Literal["balanced", "random"]
Precision = Literal["float32", "bfloat16"]

Progress = Callable[[float], None]
"""Told how many more pictures are done, in fractions: each step adds its share of a batch."""


@dataclass(frozen=True)
class Samples:
    """An endless series of pictures: the i-th depends on these settings and i alone.

    Made by `Pipeline.samples`, which explains the settings; `classes` holds label numbers, and
    `size` is that of the result.
    """

    reproducible: ClassVar[bool] = True

    model: Backbone
    codec: PixelCodec
    process: Process
    classes: tuple[int, ...]
    size: Size
    sampler: Sampler
    guidance: float
    guidance_kind: str
    interval: tuple[float, float]
    channels_guided: int | None
    weaker: Backbone | None
    seed: int
    label_policy: LabelPolicy
    precision: Precision
    model_arguments: dict[str, Any]

    def __post_init__(self) -> None:
        """Raise InputError now rather than at the first picture."""
        self.sampler.check_process(self.process)
        if isinstance(self.process, MultiscaleFlow) and self.guidance_kind == "auto":
            raise InputError(
                "expected the guidance cfg or cfg-zero for a model trained with the process dfm, "
                "got auto; leave out the weaker model"
            )
        if self.guidance_kind == "cfg-zero" and self.sampler.solver in ANCESTRAL_SOLVERS:
            raise InputError(
                f"the guidance cfg-zero is for velocities, got the solver {self.sampler.solver}, "
                "which predicts noise; choose another of the two"
            )
        self.guided(self.model)

    @property
    def channels(self) -> int:
        """Channels of the pictures: 1 for grey, 3 for colour."""
        return self.model.in_channels

    def labels(self, indices: Sequence[int]) -> Int[Tensor, " B"]:
        """Return the label numbers of the pictures `indices`."""
        if self.label_policy == "random":
            return draw_labels(self.seed, indices, self.classes)
        return assign_labels(indices, self.classes)

    @torch.inference_mode()
    def read(
        self,
        indices: Sequence[int],
        progress: Progress | None = None,
        watch: Callback | None = None,
    ) -> UInt8[Tensor, "B C H W"]:
        """Make the pictures `indices` in one batch; they come back on the CPU.

        Args:
            indices: numbers of the pictures.
            progress: told how many more pictures are done.
            watch: told of every step: its number from 1, their number, and the running pictures in
                model space, which `codec.decode` shows.

        Raises:
            InputError: the model gives NaN or infinity.
        """

        def report(step: int, of: int, x: Tensor) -> None:
            if progress is not None:
                progress(len(indices) / of)
            if watch is not None:
                watch(step, of, x)

        def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return self.model(x, t, y, **self.model_arguments)

        def draw(step: int) -> Tensor:
            return draw_noise(self.seed, indices, shape, step)

        height, width = (side * self.sampler.enlargement(self.process) for side in self.size)
        shape = (self.channels, height, width)
        device = next(self.model.parameters()).device
        noise = draw_noise(self.seed, indices, shape).to(device)
        labels = self.labels(indices).to(device)
        half = self.precision == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            x = self.sampler.run(self.process, network, self.guided, noise, labels, draw, report)
        finite = x.isfinite().flatten(1).all(1).cpu()
        if not finite.all():
            raise InputError(
                f"the model gives NaN or infinity for sample {indices[int(finite.int().argmin())]};"
                " use an earlier checkpoint, more steps or less guidance"
            )
        return self.codec.decode(x).cpu()

    def guided(self, model: Denoiser, clock: Clock | None = None) -> Denoiser:
        """Put the guidance around a Denoiser."""
        more: dict[str, Any] = {}
        if self.weaker is not None:
            more["weaker"] = self.weaker if clock else self.process.as_prediction(self.weaker)
        return guide(
            model,
            self.model.num_classes,
            self.guidance,
            self.guidance_kind,
            interval=self.interval,
            channels=self.channels_guided,
            clock=clock,
            **more,
        )

    def describe(self) -> dict[str, Any]:
        """Return everything but the model that the pictures depend on, ready for JSON."""
        every = self.classes == tuple(range(self.model.num_classes))
        return {
            **self.sampler.describe(self.process),
            "guidance": {
                "kind": self.guidance_kind,
                "scale": self.guidance,
                "interval": list(self.interval),
                "channels": self.channels_guided or "all",
                "weaker": self.weaker and hash_tensors(self.weaker.state_dict()),
            },
            "labels": {
                "policy": self.label_policy,
                "classes": "all" if every else list(self.classes),
            },
            "seed": self.seed,
            "seed_rule": SEED_RULE,
            "size": list(self.size),
            "codec": type(self.codec).__name__,
            "precision": self.precision,
            "model_arguments": self.model_arguments,
        }
