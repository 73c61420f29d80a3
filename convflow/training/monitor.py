"""What a run shows of itself: progress, `metrics.jsonl`, TensorBoard curves and sample grids.

`metrics.jsonl` holds only what the settings determine, so that a resumed run writes the same
bytes as an undisturbed one; speed goes to the progress line and to TensorBoard.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from convflow.training.checkpoint import write_text
from convflow.training.config import MonitorConfig

log = logging.getLogger("convflow")

SPOKEN_SECONDS = 15.0


class Schedule:
    """Says when something is due: first after `first` seconds, then after gaps that double."""

    def __init__(self, first: float, longest: float, clock: Callable[[], float] = time.monotonic):
        self.gap, self.longest, self.clock = first, longest, clock
        self.next = clock() + first

    def due(self) -> bool:
        """Return True once per gap."""
        if self.clock() < self.next:
            return False
        self.gap = min(2 * self.gap, self.longest)
        self.next = self.clock() + self.gap
        return True


class Monitor:
    """Writes and shows the course of one run; only the first process makes one.

    Args:
        run: the run folder.
        config: how often and how much.
        step: the step the run goes on from; later lines of `metrics.jsonl` are dropped.
        images_seen: likewise, for the progress bar.
        images: length of the run.
    """

    def __init__(
        self, run: Path, config: MonitorConfig, step: int, images_seen: int, images: int
    ) -> None:
        self.run, self.config = run, config
        path = run / "metrics.jsonl"
        write_text(path, "".join(_lines_up_to(path, step)))
        self.file = path.open("a", encoding="utf-8")
        self.samples_due = Schedule(
            60 * config.samples_minutes, 60 * config.samples_longest_minutes
        )
        self.spoken = Schedule(SPOKEN_SECONDS, SPOKEN_SECONDS)
        self.began, self.images_begun, self.images = time.monotonic(), images_seen, images
        quiet = not sys.stderr.isatty()
        self.bar = tqdm(
            total=images, initial=images_seen, unit="img", disable=quiet, dynamic_ncols=True
        )
        self.curves = _open_tensorboard(run) if config.tensorboard else None

    def step(self, step: int, images_seen: int, metrics: dict[str, float]) -> None:
        """Show a finished step; write every `log_every`-th one down."""
        self.bar.n = images_seen
        self.bar.set_postfix(loss=f"{metrics['loss']:.4f}", refresh=False)
        self.bar.update(0)
        speed = (images_seen - self.images_begun) / max(time.monotonic() - self.began, 1e-9)
        if self.bar.disable and self.spoken.due():
            left = (self.images - images_seen) / speed
            log.info(
                f"{images_seen:,} of {self.images:,} images, loss {metrics['loss']:.4f}, "
                f"{speed:.0f} images/s, {left / 60:.1f} min left"
            )
        if step % self.config.log_every == 0:
            line = {"step": step, "images": images_seen, **metrics}
            self.file.write(json.dumps(line) + "\n")
            if self.curves is not None:
                for name, value in {**metrics, "images_per_second": speed}.items():
                    self.curves.add_scalar(name, value, images_seen)

    def flush(self) -> None:
        """Hand everything written so far to the operating system."""
        self.file.flush()

    def close(self) -> None:
        """Finish the files and the progress bar."""
        self.file.close()
        self.bar.close()
        if self.curves is not None:
            self.curves.close()


def _lines_up_to(path: Path, step: int) -> list[str]:
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(True) if path.exists() else []:
        if line.endswith("\n") and json.loads(line)["step"] <= step:
            kept.append(line)
    return kept


def _open_tensorboard(run: Path) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(run / "tensorboard")
