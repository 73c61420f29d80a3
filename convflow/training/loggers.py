"""Where the numbers of a training go: files of its folder, TensorBoard, W&B, Trackio, others."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from convflow.data.source import one_line, require
from convflow.settings.kinds import Table
from convflow.storage import explained, read_json, write_text
from convflow.training.config import MonitorConfig
from convflow.types import InputError


class Logger:
    """Takes the metrics of a run; a subclass says where to.

    It is made as `Kind(run, step, images_seen)` by the first process, when the training begins or
    goes on. What a run beyond this step has logged before is to be forgotten.

    Args:
        run: the run folder.
        step: that the training goes on from.
        images_seen: at this step.

    Attributes:
        package: that it needs, which is also the name of an extra of this package; empty for none.
    """

    package = ""

    def __init__(self, run: Path, step: int, images_seen: int) -> None:
        self.run = run

    def log(
        self,
        step: int,
        images_seen: int,
        metrics: Mapping[str, float],
        speed: Mapping[str, float],
    ) -> None:
        """Take the metrics of a step.

        Args:
            step: number of the step, from 1.
            images_seen: after the step.
            metrics: functions of the settings and the step alone.
            speed: numbers that differ from run to run, such as `images_per_second`; see `Speed`.
        """
        raise NotImplementedError

    def flush(self) -> None:
        """Make what was logged last: a checkpoint follows."""

    def close(self) -> None:
        """Finish."""


class MetricsFile(Logger):
    """Lines of JSON in `metrics.jsonl`, the same bytes for a resumed run as for a straight one."""

    name = "metrics.jsonl"

    def __init__(self, run: Path, step: int, images_seen: int) -> None:
        super().__init__(run, step, images_seen)
        self.path = run / self.name
        write_text(self.path, "".join(lines_up_to(self.path, step)))
        self.file = self.path.open("a", encoding="utf-8", newline="\n", buffering=1)

    def log(
        self,
        step: int,
        images_seen: int,
        metrics: Mapping[str, float],
        speed: Mapping[str, float],
    ) -> None:
        """Write a line of the metrics."""
        with explained(self.path):
            self.file.write(json.dumps({"step": step, "images": images_seen, **metrics}) + "\n")

    def flush(self) -> None:
        """Wait until the disk holds everything written so far."""
        with explained(self.path):
            self.file.flush()
            os.fsync(self.file.fileno())

    def close(self) -> None:
        with suppress(OSError):  # a full disk, which the write before has reported
            self.file.close()


class SpeedFile(MetricsFile):
    """Lines of JSON in `speed.jsonl`: what differs from run to run."""

    name = "speed.jsonl"

    def log(
        self,
        step: int,
        images_seen: int,
        metrics: Mapping[str, float],
        speed: Mapping[str, float],
    ) -> None:
        """Write a line of the speed."""
        super().log(step, images_seen, speed, speed)


class Curves(Logger):
    """What draws all numbers over images seen; a subclass says where, in `add`."""

    def log(
        self,
        step: int,
        images_seen: int,
        metrics: Mapping[str, float],
        speed: Mapping[str, float],
    ) -> None:
        """Add a point to each curve."""
        self.add(step, images_seen, {**metrics, **speed})

    def add(self, step: int, images_seen: int, numbers: dict[str, float]) -> None:
        """Add a point to each curve, by name."""
        raise NotImplementedError


class TensorBoard(Curves):
    """Curves in the folder `tensorboard`; nothing where it is not installed."""

    def __init__(self, run: Path, step: int, images_seen: int) -> None:
        super().__init__(run, step, images_seen)
        self.writer: Any = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(run / "tensorboard", purge_step=images_seen + 1)

    def add(self, step: int, images_seen: int, numbers: dict[str, float]) -> None:
        """Add a point to each curve."""
        for name, value in numbers.items() if self.writer is not None else ():
            self.writer.add_scalar(name, value, images_seen)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class WeightsAndBiases(Curves):
    """A run of Weights & Biases, whose files are in the folder `wandb` of the run.

    What the library reads from the environment counts, such as WANDB_PROJECT and WANDB_MODE. A
    resumed run goes on with its own W&B run, which takes no step a second time.
    """

    package = "wandb"

    def __init__(self, run: Path, step: int, images_seen: int) -> None:
        super().__init__(run, step, images_seen)
        wandb = require("wandb", "wandb", "the logger wandb")
        before = sorted((run / "wandb").glob("*run-*-*"))
        try:
            self.session = wandb.init(
                dir=run,
                name=run.resolve().name,
                id=before[-1].name.rpartition("-")[2] if before else None,
                resume="allow",
                config=read_json(run / "config.json"),
                settings=wandb.Settings(console="off"),
            )
        except wandb.Error as error:
            raise InputError(
                f"expected Weights & Biases to begin a run, got {one_line(error)}; log in with "
                "wandb login, or set WANDB_MODE=offline"
            ) from error
        self.session.define_metric("*", step_metric="images")

    def add(self, step: int, images_seen: int, numbers: dict[str, float]) -> None:
        """Add a point to each curve."""
        self.session.log({**numbers, "images": images_seen}, step=step)

    def close(self) -> None:
        """Wait until everything is stored or sent."""
        self.session.finish()


class Trackio(Curves):
    """A run in the project `convflow` of Trackio, which stores it where TRACKIO_DIR says."""

    package = "trackio"

    def __init__(self, run: Path, step: int, images_seen: int) -> None:
        super().__init__(run, step, images_seen)
        self.trackio = require("trackio", "trackio", "the logger trackio")
        self.trackio.init(
            project="convflow",
            name=run.resolve().name,
            resume="allow" if step else "never",
            config=read_json(run / "config.json"),
        )

    def add(self, step: int, images_seen: int, numbers: dict[str, float]) -> None:
        """Add a point to each curve."""
        self.trackio.log(numbers, step=images_seen)

    def close(self) -> None:
        """Wait until everything is stored."""
        self.trackio.finish()


LOGGERS: Table[Any] = Table(
    "logger",
    Logger,
    {
        "file": MetricsFile,
        "speed": SpeedFile,
        "tensorboard": TensorBoard,
        "wandb": WeightsAndBiases,
        "trackio": Trackio,
    },
)
"""The classes of loggers; users name others as `package.module:Name`."""


def find_loggers(config: MonitorConfig) -> list[type[Logger]]:
    """Return the loggers of a run.

    Raises:
        InputError: an unknown logger, or one whose package is not installed.
    """
    usual = ["file", "speed", *["tensorboard"] * config.tensorboard]
    names = list(dict.fromkeys([*usual, *filter(None, config.logger.split(","))]))
    found: list[type[Logger]] = [LOGGERS.find(name, trusted=False) for name in names]
    for name, kind in zip(names, found, strict=True):
        if kind.package:
            require(kind.package, kind.package, f"the logger {name}")
    return found


def forget_step(run: Path, step: int) -> None:
    """Take the lines of a step, which are the last, out of the files of a run."""
    for kind in (MetricsFile, SpeedFile):
        if (path := run / kind.name).exists():
            write_text(path, "".join(lines_up_to(path, step - 1)))


def lines_up_to(path: Path, step: float) -> list[str]:
    """Return the lines up to `step` but those that a power cut, or an editor, has spoilt."""
    kept = []
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            text = line.decode()
            if json.loads(text)["step"] <= step:
                kept.append(f"{text}\n")
    return kept
