"""What the end of a training takes: its last step, a checkpoint and a grid of samples."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from convflow.training.config import TrainConfig

SAVING = 1.5
"""Seconds of a checkpoint before one was measured."""

SAFETY = 1.25
"""Factor on what was measured, for a machine that becomes slower."""

MOST_OF_TIME = 0.2
"""Share of the time of a training that is kept for its end at most."""

FORWARD = 1 / 3
"""What a call of the network costs, in training steps on as many images."""


class Ending:
    """Called, it returns the seconds that are to be kept for the end.

    What the run has done before is measured. A grid that was never drawn is taken to cost what its
    calls of the network cost by the speed of the training.

    Args:
        config: the complete settings.
        clock: in seconds.

    Attributes:
        drawn: the images seen when a grid was drawn last; -1 before.
    """

    def __init__(self, config: TrainConfig, clock: Callable[[], float] = time.monotonic) -> None:
        sampling = config.sampling
        calls = (sampling.solver.num_steps or 1) * (2 if sampling.guidance != 1 else 1)
        self.images = 2 * FORWARD * config.monitor.num_samples * calls  # of raw weights and average
        self.clock, self.measured = clock, dict[str, float]()
        self.begun: tuple[float, int] | None = None
        self.last, self.steps = (0.0, 0), 0
        self.most, self.drawn = 0.0, -1

    def begin(self, deadline: float | None) -> None:
        """Take note of when a training ends that begins now; None for one without such a time."""
        self.begun, self.steps = None, 0
        self.most = 0.0 if deadline is None else MOST_OF_TIME * max(deadline - self.clock(), 0.0)

    def note(self, images_seen: int) -> None:
        """Take note of a step that has ended; the first says nothing about the others."""
        self.last = self.clock(), images_seen
        self.steps += self.begun is not None
        self.begun = self.begun or self.last

    def took(self, what: Literal["saving", "drawing"], begun: float) -> None:
        """Take note of how long a checkpoint or a grid took that began at a time of `clock`."""
        self.measured[what] = self.clock() - begun
        self.drawn = self.last[1] if what == "drawing" else self.drawn

    def __call__(self) -> float:
        """Return the seconds of a step, a checkpoint and a grid, at most a share of the time."""
        saving, step, drawing = self.measured.get("saving", SAVING), 0.0, 0.0
        if self.begun is not None and self.steps:
            seconds, images = self.last[0] - self.begun[0], self.last[1] - self.begun[1]
            step, drawing = seconds / self.steps, self.images * seconds / images
        drawing = self.measured.get("drawing", drawing)
        return min(step + SAFETY * (saving + drawing), self.most)
