"""Train contenders alike, and score them on the way with the small network of CIFAR-10.

Every contender sees the same images in the same order. Several contenders train and sample at once,
each in a process that goes on to the next one; run again, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.harness import RESULTS, machine, write_table
from benchmarks.quality.warm import run

DETECTOR = f"{Path(__file__).with_name('cifar10_network.py')}:load"
SCORES = ("FD", "KD", "precision", "recall")
FLOOR = "real test pictures"
Judge = Callable[[Path], dict[str, str]]
"""From an .npz of images, arr_0 (N, H, W, 3) uint8, to more of their scores."""
Look = Callable[[Path, "Contender", int], dict[str, str]]
"""From the folder of a training after so many images to more columns of its rows."""


class Way(NamedTuple):
    """A way of sampling: its name, options of `convflow evaluate`, and height x width.

    With `sigma_rel` the weights are the power-function average of this width, made of snapshots.
    """

    name: str
    options: Sequence[str]
    size: str = "32x32"
    sigma_rel: str = ""


class Contender(NamedTuple):
    """A training: its name, the recipe, and the options of `convflow train` that make it differ.

    Without ways of its own it is sampled as all others are. `module` is imported before its weights
    are read, for a network of a user. One that is scored `at_end` alone is trained in one go, since
    its learning rate depends on the length of the run.
    """

    name: str
    recipe: str
    options: Sequence[str] = ()
    ways: Sequence[Way] = ()
    module: str = ""
    at_end: bool = False


def add_options(parser: argparse.ArgumentParser, data: str = "../shared/data/cifar10") -> None:
    """Add what all races share."""
    add = parser.add_argument
    add("--data", default=data, help="shapes, or a folder with train and test.parquet")
    add("--images", type=int, nargs="+", default=[6144, 12288], help="score after so many")
    add("--batch-size", type=int, default=32)
    add("--num", type=int, default=1000, help="samples of each score")
    add("--seeds", type=int, nargs="+", default=[0], help="of training")
    add("--draws", type=int, default=2, help="times that the end of seed 0 is sampled")
    add("--runs", type=Path, default=Path("runs/race"), help="where the trainings lie")
    add("--only", nargs="+", metavar="NAME", help="contenders to run, in this order (default: all)")
    add("--jobs", type=int, default=2, help="contenders at once, sharing the cores")
    add("--dirty", action="store_true", help="allow uncommitted changes")


def race(
    contenders: Sequence[Contender],
    ways: Sequence[Way],
    options: argparse.Namespace,
    table: str | None,
    judge: Judge | None = None,
    look: Look | None = None,
) -> list[dict[str, str]]:
    """Train and score all contenders, and write a row for each score to `results/TABLE.csv`.

    Without the name of a table none is written.

    Returns:
        The rows: contender, seed, images seen, seconds of training so far, what `look` found, way,
        size, seed of the samples, the scores, and the revision that drew and scored them, while
        `revision` is that of the table. The last rows hold as many real test images instead of
        samples: the floor of every score.
    """
    machine()  # refuses now rather than after hours
    known = {each.name: each for each in contenders}
    if unknown := [name for name in options.only or () if name not in known]:
        raise SystemExit(f"expected names among {', '.join(known)}, got {', '.join(unknown)}")
    contenders = [known[name] for name in options.only or known]
    train, test = parts_of(options.data)
    options.runs.mkdir(parents=True, exist_ok=True)
    sizes = list(dict.fromkeys(way.size for each in contenders for way in each.ways or ways))
    for size in sizes:
        reference = _reference(options, size)
        if not reference.is_file():
            convflow(options, "evaluate", train, "--num", "10000", "--size", size, "--detector",
                     DETECTOR, "--save-statistics", str(reference))  # fmt: skip

    def compete(contender: Contender, seed: int) -> list[dict[str, str]]:
        rows = []
        folder = options.runs / f"{contender.name}.{seed}"
        for images in options.images[-1:] if contender.at_end else options.images:
            again = options.draws if (seed, images) == (0, options.images[-1]) else 1
            draws = [(way, draw) for way in contender.ways or ways for draw in range(again)]
            cards = [folder / f"{way.name}.{way.size}.{images}.{draw}.json" for way, draw in draws]
            if not all(card.is_file() for card in cards):
                _train(contender, options, folder, train, seed, images)
            found = {"seconds": f"{seconds_of(folder, images):.0f}"}
            found |= look(folder, contender, images) if look else {}
            for (way, draw), card in zip(draws, cards, strict=True):
                if not card.is_file() and way.sigma_rel:
                    _average(options, folder, way, images)
                scores = _score(options, _subject(folder, way, images), card, way.size, judge,
                                "--seed", str(draw), *_import(contender), *way.options)  # fmt: skip
                rows.append({"contender": contender.name, "seed": str(seed), "images": str(images),
                             **found, "way": way.name, "size": way.size, "draw": str(draw),
                             **scores})  # fmt: skip
                print(*rows[-1].values(), flush=True)
        return rows

    pairs = [(contender, seed) for seed in options.seeds for contender in contenders]
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = [row for part in pool.map(lambda pair: compete(*pair), pairs) for row in part]
    for size in sizes:
        card = options.runs / f"floor.{size}.json"
        floor = _score(options, test, card, size, None, "--split", "test")
        rows.append({**dict.fromkeys(rows[0], ""), "contender": FLOOR, "size": size, **floor})
    if table:
        write_table(RESULTS / f"{table}.csv", rows, num=options.num, threads=threads_of(options))
    return rows


def parts_of(data: str) -> tuple[str, str]:
    """Return the images to train on, and those to test with."""
    if data == "shapes" or data.startswith("hf:"):
        return data, data
    return f"{data}/train.parquet", f"{data}/test.parquet"


def seconds_of(run: Path, images: int) -> float:
    """Return how long a run has trained until it had seen so many images; 0 if nobody knows.

    Starts, checkpoints and pauses do not count. `speed.jsonl` has a line every few steps.
    """
    path = run / "speed.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    lines = [line for line in lines if line["images"] <= images]
    seen, seconds = 0, 0.0
    for line in lines:
        seconds += (line["images"] - seen) / line["images_per_second"]
        seen = line["images"]
    return seconds * images / seen if seen else 0.0


def convflow(options: argparse.Namespace, *words: str) -> None:
    """Run a command with its share of the cores; only what goes wrong is shown."""
    run("convflow", *words, threads=threads_of(options))


def _train(
    contender: Contender,
    options: argparse.Namespace,
    folder: Path,
    train: str,
    seed: int,
    images: int,
) -> None:
    convflow(options, "train", contender.recipe, "--run", str(folder), "--data", train, "--seed",
             str(seed), "--images", str(images), "--batch-size", str(options.batch_size),
             "--monitor.samples-minutes", "1e6", *contender.options)  # fmt: skip


def _subject(folder: Path, way: Way, images: int) -> Path:
    """Return what is sampled: the run, or a model folder with an average of its weights."""
    return folder / f"sigma-{way.sigma_rel}.{images}" if way.sigma_rel else folder


def _average(options: argparse.Namespace, folder: Path, way: Way, images: int) -> None:
    """Write the model folder of an average, unless it is there."""
    if not (out := _subject(folder, way, images)).is_dir():
        convflow(options, "export", str(folder), "--sigma-rel", way.sigma_rel, "--out", str(out))


def _score(
    options: argparse.Namespace,
    what: str | Path,
    card: Path,
    size: str,
    judge: Judge | None,
    *words: str,
) -> dict[str, str]:
    """Return the scores of samples or images, from their card where there is one."""
    samples = card.with_suffix(".npz")
    if not card.is_file():
        kept = ["--save-samples", str(samples)] if judge else []
        convflow(options, "evaluate", str(what), "--reference", str(_reference(options, size)),
                 "--detector", DETECTOR, "--num", str(options.num), "--out", str(card), "--size",
                 size, *kept, *words)  # fmt: skip
    known = json.loads(card.read_text())
    found = {title.rpartition("-")[0]: value for title, value in known["scores"].items()}
    reported = {title: f"{found[title]:.5g}" for title in SCORES}
    reported["scored_by"] = (known["library"]["commit"] or "")[:7]
    return reported | (judge(samples) if judge else {})


def _import(contender: Contender) -> list[str]:
    return ["--import", contender.module] if contender.module else []


def _reference(options: argparse.Namespace, size: str) -> Path:
    return Path(options.runs) / f"reference.{size}.npz"


def threads_of(options: argparse.Namespace) -> int:
    """Return the cores of each of the contenders that run at once."""
    return max(1, (os.cpu_count() or 1) // options.jobs)
