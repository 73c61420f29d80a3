"""How fast a training is and what it uses of its machine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch

from convflow import distributed
from convflow.models.cost import measure_cost
from convflow.models.zoo import create_model

if TYPE_CHECKING:
    from convflow.training.trainer import Trainer

log = logging.getLogger("convflow")

ProductRate = Callable[[torch.device, torch.dtype], float]
"""Measures the operations a second of one large matrix product in an arithmetic."""

PATIENCE = 15.0
"""Seconds of training before the rate of a product is measured: a short run has no use for it."""


class Speed:
    """Measures on the first process, from line to line.

    Args:
        images_seen: at the beginning.
        trainer: whose device and network are looked at; None for the CPU and no network.
        clock: in seconds.

    Attributes:
        more: numbers that others measure, by name; a line takes what they are at that moment.
        found: the numbers of the last line.
    """

    def __init__(
        self,
        images_seen: int,
        trainer: Trainer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.trainer, self.clock = trainer, clock
        self.device = torch.device("cpu") if trainer is None else trainer.device
        self.images, self.then = images_seen, clock()
        self.due = self.then + PATIENCE
        self.limit: float | None = None  # images a second of a device that does products alone
        self.more: dict[str, float] = {}
        self.found: dict[str, float] = {}

    def measure(self, images_seen: int) -> dict[str, float]:
        """Return the numbers of a line, which begins where the last one ended.

        `images_per_second` of all devices and `images_per_second_per_device`;
        `peak_memory_gib`, the most memory so far: that of tensors on a GPU, that of the process on
        a CPU; `utilisation`, the operations a second of the network beside those of one large
        matrix product on this device, after the first seconds.
        """
        now = self.clock()
        rate = (images_seen - self.images) / max(now - self.then, 1e-9)
        each = rate / distributed.world_size()
        found = {"images_per_second": rate, "images_per_second_per_device": each}
        if (peak := distributed.peak_memory(self.device)) is not None:
            found["peak_memory_gib"] = peak / 2**30
        if self.limit is None and now >= self.due:
            self.limit = self._measure_limit()
        if self.limit:
            found["utilisation"] = each / self.limit
        self.images, self.then = images_seen, self.clock()
        self.found = found | self.more
        return dict(self.found)

    def describe(self) -> str:
        """Return the numbers of the last line beside images a second, for a log."""
        found, said = self.found, ""
        if distributed.world_size() > 1 and found:
            said += f" ({found['images_per_second_per_device']:.0f} on each device)"
        if "utilisation" in found:
            said += f", utilisation {found['utilisation']:.0%}"
        if "peak_memory_gib" in found:
            said += f", at most {found['peak_memory_gib']:.1f} GiB"
        return said

    def _measure_limit(self) -> float:
        """Return the images a second at the rate of a product, 0 where that is not known.

        A step takes three times the operations of a forward pass. Where it takes more, in forward
        mode or with an average of the weights, the rate is not known.
        """
        trainer = self.trainer
        if trainer is None or trainer.product_rate is None:
            return 0.0
        if trainer.process.second_time or trainer.losses.wants_average:
            return 0.0
        settings = dict(trainer.model.settings)
        build = partial(create_model, settings.pop("family"), **settings)
        try:
            codec, size = trainer.codec, trainer.images.shape[1:]
            few = codec.frame_factor
            cost = measure_cost(build, size, 1, codec.factor, frame_factor=few)
        except Exception as error:  # of a network of a user
            log.info(f"utilisation is left out, for the network cannot be counted ({error})")
            return 0.0
        half = trainer.precision == "bfloat16"
        rate = trainer.product_rate(self.device, torch.bfloat16 if half else torch.float32)
        return rate / (3 * 2e9 * cost.gmacs)
