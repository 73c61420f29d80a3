"""What a run shows of itself while it trains: progress, and numbers for its loggers.

`metrics.jsonl` holds only what the settings determine, so that a resumed run writes the same
bytes as an undisturbed one; speed goes to the progress line, to `speed.jsonl` and to other loggers.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from convflow import distributed
from convflow.bar import Bar
from convflow.storage import read_json
from convflow.training.config import MonitorConfig
from convflow.training.data import faster_data
from convflow.training.loggers import Logger, find_loggers, forget_step
from convflow.training.speed import Speed
from convflow.units import duration

if TYPE_CHECKING:
    from convflow.training.trainer import Trainer

log = logging.getLogger("convflow")

LOG_SECONDS = 15.0
MOST_DATA_WAIT = 0.05
"""Share of its time that a training may wait for images before it says what to do."""


class IntervalTimer:
    """Says when something is due: first after `first` seconds, then after gaps that double."""

    def __init__(self, first: float, longest: float, clock: Callable[[], float] = time.monotonic):
        self.gap, self.longest, self.clock = first, longest, clock
        self.next = clock() + first

    def due(self) -> bool:
        """Return True once per gap."""
        if self.clock() < self.next:
            return False
        self.gap = min(2 * self.gap, self.longest)
        self.restart()
        return True

    def restart(self) -> None:
        """Begin the present gap now: what was due has taken its time."""
        self.next = self.clock() + self.gap


class DataWait:
    """The share of its time that a training waits for its next batch, within `with` blocks.

    The first batch, which nothing can be done beside, is not counted. A GPU may still be computing
    meanwhile: it waits for at most this share.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.waited, self.begun = clock, 0.0, math.nan
        self.asked: dict[str, tuple[float, float]] = {}

    def __enter__(self) -> None:
        self.entered = self.clock()

    def __exit__(self, *error: object) -> None:
        now = self.clock()
        if math.isnan(self.begun):
            self.begun = now
        else:
            self.waited += now - self.entered

    def share(self, who: str) -> float:
        """Return it, in [0, 1], since `who` last asked."""
        now = self.clock()
        then, waited = self.asked.get(who, (self.begun, 0.0))
        self.asked[who] = now, self.waited
        return (self.waited - waited) / (now - then) if now > then else 0.0


class Monitor:
    """Writes and shows the course of one run; only the first process makes one.

    Args:
        run: the run folder.
        config: how often and how much.
        step: the step the run goes on from; what loggers have of later ones is dropped.
        images_seen: likewise, for the progress bar.
        images: length of the run.
        deadline: on the monotonic clock, where the run may end earlier.
        speed: measures the machine; by default without what needs to know the network.
        data_wait: how long the training waits for images.
        faster_data: what to do where that is long.
    """

    def __init__(
        self,
        run: Path,
        config: MonitorConfig,
        step: int,
        images_seen: int,
        images: int,
        deadline: float | None = None,
        speed: Speed | None = None,
        data_wait: DataWait | None = None,
        faster_data: str = "",
    ) -> None:
        self.run, self.config = run, config
        self.deadline = math.inf if deadline is None else deadline
        self.unwritten: tuple[int, int, dict[str, float]] | None = None
        self.loggers: list[Logger] = [kind(run, step, images_seen) for kind in find_loggers(config)]
        self.samples_due = IntervalTimer(
            60 * config.samples_minutes, 60 * config.samples_longest_minutes
        )
        self.spoken = IntervalTimer(LOG_SECONDS, LOG_SECONDS)
        self.began, self.images_begun, self.images = time.monotonic(), images_seen, images
        self.speed = speed or Speed(images_seen)
        self.data_wait, self.faster_data = data_wait or DataWait(), faster_data
        self.advised = IntervalTimer(LOG_SECONDS, 64 * LOG_SECONDS)
        quiet = not sys.stderr.isatty()
        self.bar = Bar(
            total=images, initial=images_seen, unit="img", disable=quiet, until=self.deadline
        )

    def step(self, step: int, images_seen: int, metrics: dict[str, float]) -> None:
        """Show a finished step; write every `log_every`-th one down.

        Args:
            step: its number.
            images_seen: after it.
            metrics: of it; none where the device was not waited for.
        """
        self.bar.n, self.unwritten = images_seen, None
        if not metrics:
            self.bar.update(0)
            return
        self.bar.set_postfix(loss=f"{metrics['loss']:.4f}", refresh=False)
        self.bar.update(0)
        if step % self.config.log_every == 0:
            self._write(step, images_seen, metrics)
        else:
            self.unwritten = step, images_seen, metrics
        if self.spoken.due():
            self._speak(images_seen, metrics["loss"])

    def end(self) -> None:
        """Write the last step down, so that a short run has a line; see `forget_end`.

        On a GPU nothing is known of it where --minutes or a signal ended the run between two lines.
        """
        if self.unwritten is not None:
            self._write(*self.unwritten)
            self.unwritten = None

    def _write(self, step: int, images_seen: int, metrics: dict[str, float]) -> None:
        """Give the numbers of a step to the loggers."""
        self.speed.more["data_wait"] = self.data_wait.share("line")
        speed = self.speed.measure(images_seen)
        speed["seconds_left"] = self._left(images_seen)
        for logger in self.loggers:
            logger.log(step, images_seen, metrics, speed)

    def _speak(self, images_seen: int, loss: float) -> None:
        """Say how it goes where there is no bar, and what to do where images come late."""
        wait = self.data_wait.share("log")
        if self.bar.disable:
            log.info(
                f"{images_seen:,} of {self.images:,} images, loss {loss:.4f}, "
                f"{self._average(images_seen):.0f} images/s{self.speed.describe()}, "
                f"{wait:.0%} of the time waiting for images, "
                f"{duration(self._left(images_seen))} left"
            )
        if wait > MOST_DATA_WAIT and self.advised.due():
            log.warning(f"the training waits for images {wait:.0%} of its time; {self.faster_data}")

    def _average(self, images_seen: int) -> float:
        """Return the images a second since the beginning, pauses included."""
        return max(images_seen - self.images_begun, 1) / max(time.monotonic() - self.began, 1e-9)

    def _left(self, images_seen: int) -> float:
        """Return the seconds to the end of the run or to the deadline."""
        until = max(0.0, self.deadline - time.monotonic())
        return min(max(0, self.images - images_seen) / self._average(images_seen), until)

    def lengthen(self, images: int) -> None:
        """Take note of another length of the run."""
        self.images = self.bar.total = images

    def flush(self) -> None:
        """Wait until everything logged so far is safe."""
        for logger in self.loggers:
            logger.flush()

    def close(self) -> None:
        """Finish the files and the progress bar."""
        for logger in self.loggers:
            logger.close()
        self.bar.close()


def forget_end(trainer: Trainer) -> None:
    """Take out the line that `Monitor.end` has added for the step from which a run goes on.

    A line that stood there for `log_every`, now or when the checkpoint was written, stays.
    """
    every, folder = {trainer.config.monitor.log_every}, trainer.begun_from
    if folder is not None:
        before = read_json(folder / "state.json")["config"].get("monitor", {})
        every.add(before.get("log_every", MonitorConfig.log_every))
    if all(trainer.step % steps for steps in every):
        forget_step(trainer.run_folder, trainer.step)


def open_monitor(
    trainer: Trainer, deadline: float | None
) -> AbstractContextManager[Monitor | None]:
    """Return the monitor of a training on the first process, and none on others."""
    if distributed.rank():
        return nullcontext()
    config, seen = trainer.config, trainer.images_seen
    if seen < config.images:
        forget_end(trainer)
    speed = Speed(seen, trainer)
    return closing(
        Monitor(
            trainer.run_folder,
            config.monitor,
            trainer.step,
            seen,
            config.images,
            deadline,
            speed,
            trainer.data_wait,
            faster_data(trainer.images, config.data.shuffle),
        )
    )
