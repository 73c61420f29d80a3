"""Where the numbers of a training go: a file of its folder, TensorBoard, or a logger of a user."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from convflow.settings.kinds import Table
from convflow.storage import explained, write_text


class Logger:
    """Takes the metrics of a run; a subclass says where to.

    It is made as `Kind(run, step, images_seen)` by the first process, when the training begins or
    goes on. What a run beyond this step has logged before is to be forgotten.

    Args:
        run: the run folder.
        step: that the training goes on from.
        images_seen: at this step.
    """

    def __init__(self, run: Path, step: int, images_seen: int) -> None:
        self.run = run

    def log(self, step: int, images_seen: int, metrics: Mapping[str, float], speed: float) -> None:
        """Take the metrics of a step.

        Args:
            step: number of the step, from 1.
            images_seen: after the step.
            metrics: functions of the settings and the step alone.
            speed: images a second, which differ from run to run.
        """
        raise NotImplementedError

    def flush(self) -> None:
        """Make what was logged last: a checkpoint follows."""

    def close(self) -> None:
        """Finish."""


class MetricsFile(Logger):
    """Lines of JSON in `metrics.jsonl`, the same bytes for a resumed run as for a straight one."""

    def __init__(self, run: Path, step: int, images_seen: int) -> None:
        super().__init__(run, step, images_seen)
        self.path = run / "metrics.jsonl"
        write_text(self.path, "".join(lines_up_to(self.path, step)))
        self.file = self.path.open("a", encoding="utf-8", newline="\n", buffering=1)

    def log(self, step: int, images_seen: int, metrics: Mapping[str, float], speed: float) -> None:
        """Write a line, without the speed."""
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


class TensorBoard(Logger):
    """Curves in the folder `tensorboard`, over images seen; nothing where it is not installed."""

    def __init__(self, run: Path, step: int, images_seen: int) -> None:
        super().__init__(run, step, images_seen)
        self.writer: Any = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(run / "tensorboard", purge_step=images_seen + 1)

    def log(self, step: int, images_seen: int, metrics: Mapping[str, float], speed: float) -> None:
        """Add a point to each curve, that of the speed included."""
        for name, value in {**metrics, "images_per_second": speed}.items():
            if self.writer is not None:
                self.writer.add_scalar(name, value, images_seen)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


LOGGERS: Table[Any] = Table("logger", Logger, {"file": MetricsFile, "tensorboard": TensorBoard})
"""The classes of loggers; users name others as `package.module:Name`."""


def lines_up_to(path: Path, step: int) -> list[str]:
    """Return the lines up to `step` but those that a power cut, or an editor, has spoilt."""
    kept = []
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            text = line.decode()
            if json.loads(text)["step"] <= step:
                kept.append(f"{text}\n")
    return kept
