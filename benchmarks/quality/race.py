"""Train contenders on CIFAR-10 alike, and score them on the way with the small network.

Every contender sees the same pictures in the same order. Each trains and samples in processes of
its own, several contenders at once; run again, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.harness import RESULTS, machine

DETECTOR = f"{Path(__file__).with_name('cifar10_network.py')}:load"
SCORES = ("FD", "KD", "precision", "recall")


class Contender(NamedTuple):
    """A training: its name, the recipe, and the options of `convflow train` that make it differ."""

    name: str
    recipe: str
    options: Sequence[str] = ()


class Way(NamedTuple):
    """A way of sampling: its name, and the options of `convflow evaluate`."""

    name: str
    options: Sequence[str]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what all races share."""
    add = parser.add_argument
    add("--data", type=Path, default=Path("../shared/data/cifar10"), help="train and test.parquet")
    add("--images", type=int, nargs="+", default=[6144, 12288], help="score after so many")
    add("--batch-size", type=int, default=32)
    add("--num", type=int, default=1000, help="samples of each score")
    add("--seeds", type=int, nargs="+", default=[0], help="of training; 0 is sampled twice")
    add("--runs", type=Path, default=Path("runs/race"), help="where the trainings lie")
    add("--only", nargs="+", metavar="NAME", help="contenders to run (default: all)")
    add("--jobs", type=int, default=2, help="contenders at once, sharing the cores")
    add("--dirty", action="store_true", help="allow uncommitted changes")


def race(
    contenders: Sequence[Contender],
    ways: Sequence[Way],
    options: argparse.Namespace,
    table: str,
) -> list[dict[str, str]]:
    """Train and score all contenders, and write a row for each score to `results/TABLE.csv`.

    Returns:
        The rows: contender, seed, images seen, way, seed of the samples, and the scores. The last
        row holds as many real test pictures instead of samples: the floor of every score.
    """
    notes = machine()
    contenders = [each for each in contenders if not options.only or each.name in options.only]
    reference = options.runs / "reference.npz"
    if not reference.is_file():
        options.runs.mkdir(parents=True, exist_ok=True)
        _convflow(options, "evaluate", f"{options.data}/train.parquet", "--num", "10000",
                  "--save-statistics", str(reference), "--detector", DETECTOR)  # fmt: skip

    def score(what: str, card: Path, *words: str) -> dict[str, str]:
        if not card.is_file():
            _convflow(options, "evaluate", what, "--reference", str(reference), "--detector",
                      DETECTOR, "--num", str(options.num), "--out", str(card), *words)  # fmt: skip
        scores = json.loads(card.read_text())["scores"]
        found = {title.rpartition("-")[0]: value for title, value in scores.items()}
        return {title: f"{found[title]:.5g}" for title in SCORES}

    def run(contender: Contender, seed: int) -> list[dict[str, str]]:
        rows = []
        folder = options.runs / f"{contender.name}.{seed}"
        for images in options.images:
            last = seed == 0 and images == options.images[-1]
            draws = [(way, draw) for way in ways for draw in ((0, 1) if last else (0,))]
            cards = [folder / f"{way.name}.{images}.{draw}.json" for way, draw in draws]
            if not all(card.is_file() for card in cards):
                _convflow(options, "train", contender.recipe, "--run", str(folder), "--data",
                          f"{options.data}/train.parquet", "--seed", str(seed), "--images",
                          str(images), "--batch-size", str(options.batch_size),
                          "--monitor.samples-minutes", "1e6", *contender.options)  # fmt: skip
            for (way, draw), card in zip(draws, cards, strict=True):
                found = score(str(folder), card, "--seed", str(draw), *way.options)
                rows.append({"contender": contender.name, "seed": str(seed), "images": str(images),
                             "way": way.name, "draw": str(draw), **found})  # fmt: skip
                print(*rows[-1].values(), flush=True)
        return rows

    pairs = [(contender, seed) for seed in options.seeds for contender in contenders]
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = [row for part in pool.map(lambda pair: run(*pair), pairs) for row in part]
    test = f"{options.data}/test.parquet"
    floor = score(test, options.runs / "floor.json", "--split", "test")
    rows.append({**dict.fromkeys(rows[0], ""), "contender": "real test pictures", **floor})
    with (RESULTS / f"{table}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "num", *notes], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "num": options.num, **notes} for row in rows)
    return rows


def _convflow(options: argparse.Namespace, *words: str) -> None:
    """Run a command with its share of the cores; only what goes wrong is shown."""
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    done = subprocess.run(
        [sys.executable, "-m", "convflow", *words],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"convflow {' '.join(words)}\n{done.stderr[-2000:]}")
