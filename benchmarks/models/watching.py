"""What watching costs: the training of `toy.shapes` with all of it on, beside one with it off.

Run it as `python benchmarks/models/watching.py` from the repository, `--quick` to see it work.
On: validation loss of 128 images, weights and average, every 500 steps; TensorBoard; and W&B
(offline) and Trackio where they are installed; utilisation. Off: `metrics.jsonl` and `speed.jsonl`
alone. Scores are left out in both, for sampling costs what the user asks for. The time is that from
the 50th step to the last one; the two trainings alternate.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import harness
from convflow.bench import table
from convflow.bench.utilisation import product_rate
from convflow.recipes import create_config
from convflow.training import launch
from convflow.training.overrides import override
from convflow.training.trainer import Trainer

SERVICES = [name for name in ("wandb", "trackio") if importlib.util.find_spec(name)]
VARIANTS = {
    "off": ["--monitor.tensorboard", "false"],
    "on": ["--monitor.validation", "128", "--monitor.logger", ",".join(SERVICES)],
}
FIRST_STEP = 50
LATER = ["--monitor.samples-minutes", "1000", "--checkpoint.every-minutes", "1000"]


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--images", type=int, default=32_000, help="images of each training")
    add("--rounds", type=int, default=3, help="how often both have their turn")
    add("--quick", action="store_true", help="one round of 1,600 images, no table")
    add(harness.DIRTY, action="store_true", help="allow numbers that no revision can repeat")
    options = parser.parse_args()

    harness.machine()  # refuses now rather than after minutes
    rounds, images = (1, 1600) if options.quick else (options.rounds, options.images)
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name, words in VARIANTS.items():
            with tempfile.TemporaryDirectory() as folder:
                times[name].append(measure(words, Path(folder) / "run", images))
    ratios = [on / off for on, off in zip(times["on"], times["off"], strict=True)]
    more = {"services": "+".join(SERVICES) or "none", "ratio": statistics.median(ratios)}
    rows = [
        {"watching": name, "images": images, "rounds": rounds, "seconds": statistics.median(found)}
        for name, found in times.items()
    ]
    found = [table.cells(row | more) for row in rows]
    if not options.quick:
        harness.write_table(harness.RESULTS / "watching_cpu.csv", found)
    print(*table.lines(found), harness.machine(), sep="\n")


def measure(words: list[str], run: Path, images: int) -> float:
    """Seconds of a training from its 50th step to its last."""
    given = ["--images", str(images), "--device", "cpu", "--sampling.steps", "1", *LATER, *words]
    begins: list[float] = []
    step = Trainer.train_step

    def noting(trainer: Trainer, *batch: Any) -> dict[str, float]:
        begins.append(time.perf_counter())
        return step(trainer, *batch)

    offline = {"WANDB_MODE": "offline", "TRACKIO_DIR": str(run.parent / "trackio")}
    with mock.patch.object(Trainer, "train_step", noting), mock.patch.dict(os.environ, offline):
        launch.train(override(create_config("toy.shapes"), given), run, product_rate=product_rate)
    return begins[-1] - begins[FIRST_STEP]


if __name__ == "__main__":
    main()
