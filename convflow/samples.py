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
from convflow.samplers.guidance import ClassifierFreeGuidance
from convflow.samplers.ode import integrate
from convflow.samplers.seeds import SEED_RULE, assign_labels, draw_labels, draw_noise
from convflow.types import InputError, Size

LabelPolicy = Literal["balanced", "random"]
Precision = Literal["float32", "bfloat16"]

Progress = Callable[[float], None]
"""Told how many more pictures are done, in fractions: each step adds its share of a batch."""


@dataclass(frozen=True)
class Samples:
    """An endless series of pictures: the i-th depends on these settings and i alone.

    Made by `Pipeline.samples`, which explains the settings; `classes` holds label numbers.
    """

    reproducible: ClassVar[bool] = True

    model: Backbone
    codec: PixelCodec
    classes: tuple[int, ...]
    size: Size
    grid: tuple[float, ...]
    guidance: float
    interval: tuple[float, float]
    solver: str
    seed: int
    shift: float
    last_step: float | None
    label_policy: LabelPolicy
    precision: Precision
    model_arguments: dict[str, Any]

    def __post_init__(self) -> None:
        """Raise InputError now rather than at the first picture."""
        ClassifierFreeGuidance(self.model, 0, self.guidance, self.interval)

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
        self, indices: Sequence[int], progress: Progress | None = None
    ) -> UInt8[Tensor, "B C H W"]:
        """Make the pictures `indices` in one batch; they come back on the CPU.

        Raises:
            InputError: the model gives NaN or infinity.
        """

        def report(step: int, of: int, _: Tensor) -> None:
            if progress is not None:
                progress(len(indices) / of)

        def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return self.model(x, t, y, **self.model_arguments)

        null = self.model.num_classes
        guided = ClassifierFreeGuidance(network, null, self.guidance, self.interval)
        device = next(self.model.parameters()).device
        noise = draw_noise(self.seed, indices, (self.channels, *self.size)).to(device)
        labels = self.labels(indices).to(device)
        half = self.precision == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            x = integrate(guided, noise, labels, list(self.grid), self.solver, report)
        finite = x.isfinite().flatten(1).all(1).cpu()
        if not finite.all():
            raise InputError(
                f"the model gives NaN or infinity for sample {indices[int(finite.int().argmin())]};"
                " use an earlier checkpoint, more steps or less guidance"
            )
        return self.codec.decode(x).cpu()

    def describe(self) -> dict[str, Any]:
        """Return everything but the model that the pictures depend on, ready for JSON."""
        every = self.classes == tuple(range(self.model.num_classes))
        return {
            "solver": self.solver,
            "steps": len(self.grid) - 1,
            "time_shift": self.shift,
            "last_step": self.last_step,
            "guidance": {
                "scale": self.guidance,
                "interval": list(self.interval),
                "channels": "all",
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
