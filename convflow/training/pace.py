"""A training that is to end at a minute: its length is set once more by the speed that it has.

Before the learning rate begins to fall nothing depends on the length of the run. So a run whose
length changes there is the run that had this length from the start, and a resumed one stays exact.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from convflow.settings.read import to_dict
from convflow.storage import write_text
from convflow.training.changes import find_changes, record_changes

if TYPE_CHECKING:
    from convflow.training.monitor import Monitor
    from convflow.training.trainer import Trainer

log = logging.getLogger("convflow")

DUE = 0.45
"""Share of the length, or of the time, after which the length is set once more.

A plan lets the learning rate fall from half of the length on."""

TIMED = 0.03
"""Share of the length over which the speed is taken at least; a resumed run may begin near `DUE`.

Both together end before the learning rate begins to fall."""

SMALLEST_CHANGE = 0.03
"""Share of the length; less is left as it is."""

KEPT_FREE = 0.02
"""Share of the time that is left free, for a machine that becomes slower."""


class Pace:
    """Called after every step of a training on one process.

    Args:
        deadline: on `clock`, when training is to end; None where its length alone counts.
        most: images that the run sees at most; 0 leaves the length as it is.
        files: names and texts of files that are written into the run folder before the first step.
        clock: in seconds.
    """

    def __init__(
        self,
        deadline: float | None,
        most: int,
        files: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.deadline, self.most, self.clock = deadline, most, clock
        self.files = files or {}
        self.first: tuple[float, int] | None = None
        self.done = False

    def __call__(self, trainer: Trainer, monitor: Monitor | None) -> None:
        """Set the length once more if it is time."""
        config, seen = trainer.config, trainer.images_seen
        if self.first is None:  # what the first step takes says nothing about the others
            self.first = self.clock(), seen
            self.done = self.deadline is None or not self.most or seen >= DUE * config.images
            return
        if self.done or not self.is_due(seen, config.images):
            return
        self.done = True
        images = self.length(seen, config.batch_size, trainer.ending())
        if abs(images - config.images) < SMALLEST_CHANGE * config.images:
            return
        optim = config.optim
        if optim.schedule == "wsd":  # it falls over the same share, from now on at the latest
            share = optim.decay_images / config.images
            falls = max(1, min(int(share * images), images - seen))
            optim = replace(optim, decay_images=falls)  # type: ignore[type-var]
        now = replace(config, images=images, optim=optim)
        trainer.config = now
        run = trainer.run_folder
        write_text(run / "config.json", json.dumps(to_dict(now), indent=2))
        record_changes(find_changes(config, now), run, trainer.step, seen)
        if monitor is not None:
            monitor.lengthen(images)
        log.info(
            f"at this speed {images:,} images fit into the time, not {config.images:,}: the "
            "length of the run is set to that"
        )

    def is_due(self, seen: int, images: int) -> bool:
        """Return whether enough images are seen, also since the first step here, or time is over.

        Args:
            seen: images so far.
            images: length of the run.
        """
        assert self.first is not None
        assert self.deadline is not None
        begun, before = self.first
        late = self.clock() - begun >= DUE * (self.deadline - begun)
        return late or seen >= max(DUE * images, before + TIMED * images)

    def length(self, seen: int, batch: int, ending: float) -> int:
        """Return the images that fit into the time, in whole batches.

        Args:
            seen: images so far.
            batch: images in a step.
            ending: seconds that the last checkpoint and the last samples take.
        """
        assert self.first is not None
        assert self.deadline is not None
        then, before = self.first
        rate = (seen - before) / max(self.clock() - then, 1e-9)
        left = max(0.0, self.deadline - self.clock() - ending)
        steps = max(1, min(int(rate * (1 - KEPT_FREE) * left), max(self.most - seen, 0)) // batch)
        return seen + steps * batch
