"""How far apart are scores that should be equal? Differences below these mean nothing.

    python benchmarks/quality/noise_floor.py [--data ../shared/data/cifar10] [--run RUN]

With the small CIFAR-10 network: disjoint sets of N real test images against each other, for
several N; and, with a run, samples of one model with two seeds, each against the training
images and against each other. A row for each goes to results/noise_floor.csv.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.harness import RESULTS, machine
from convflow.evaluation.detectors import open_detector
from convflow.evaluation.image_sets import ImageSet, open_image_set
from convflow.evaluation.metrics import frechet_distance, kernel_distance, precision_recall
from convflow.evaluation.statistics import Statistics
from convflow.pipeline import Pipeline

DETECTOR = f"{Path(__file__).with_name('cifar10_network.py')}:load"
COUNTS = (500, 1000, 2000, 5000)
DRAWS = 5
BATCH = 100


def main() -> None:
    """Measure, print and write the floors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/cifar10"))
    parser.add_argument("--run", help="a trained model of CIFAR-10")
    parser.add_argument("--num", type=int, default=1000, help="samples for each seed")
    parser.add_argument("--steps", type=int, default=10, help="of Euler, without guidance")
    parser.add_argument("--dirty", action="store_true", help="allow uncommitted changes")
    options = parser.parse_args()
    notes = machine()

    real = features(open_image_set(str(options.data / "test.parquet"), split="test"), 10_000)
    rows = []
    for count in COUNTS:
        pairs = []
        for draw in range(DRAWS):
            order = np.random.default_rng(draw).permutation(len(real))
            pairs.append(compare(real[order[:count]], real[order[count : 2 * count]]))
        rows += summary("two disjoint sets of test images", count, pairs)
    if options.run:
        train = open_image_set(str(options.data / "train.parquet"), num=10_000)
        reference = features(train, 10_000)
        pipe = Pipeline.from_pretrained(options.run, device="cpu")
        series = [
            pipe.samples(seed=seed, steps=options.steps, solver="euler", guidance=1.0)
            for seed in (0, 1)
        ]
        first, second = (features(samples, options.num) for samples in series)
        against = [compare(reference, fake) for fake in (first, second)]
        rows += summary("samples of one model against training images", options.num, against)
        between = [compare(first, second)]
        rows += summary("samples of one model, seed 0 against 1", options.num, between)
    with (RESULTS / "noise_floor.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["sets", "count", "score", "draws", "mean", "low", "high", *notes])
        for row in rows:
            print("{:48} {:5} {:10} {:2} {:9.3g} {:9.3g} {:9.3g}".format(*row))
            table.writerow(
                [f"{c:.4g}" if isinstance(c, float) else c for c in row] + [*notes.values()]
            )


def features(images: ImageSet, num: int) -> Tensor:
    """Return the (num, F) features of the first images."""
    detector = open_detector(DETECTOR, device=torch.device("cpu"))

    def batches() -> Iterator[Tensor]:
        for start in tqdm(range(0, num, BATCH), unit="batch", disable=not sys.stderr.isatty()):
            indices = range(start, min(start + BATCH, num))
            yield detector(images.read(indices))["features"]

    return torch.cat(list(batches()))


def compare(real: Tensor, fake: Tensor) -> dict[str, float]:
    """Return the scores of one set against another, by title."""
    moments = []
    for rows in (real, fake):
        statistics = Statistics(rows.shape[1])
        statistics.update(rows)
        moments += [statistics.mean, statistics.covariance]
    precision, recall = precision_recall(real, fake)
    return {
        "FD": frechet_distance(*moments),
        "KD": kernel_distance(real, fake)[0],
        "precision": precision,
        "recall": recall,
    }


def summary(sets: str, count: int, scores: list[dict[str, float]]) -> list[list[object]]:
    """Return a row for each score with its mean and extremes."""
    rows: list[list[object]] = []
    for title in scores[0]:
        values = [score[title] for score in scores]
        mean = float(np.mean(values))
        rows.append([sets, count, title, len(values), mean, min(values), max(values)])
    return rows


if __name__ == "__main__":
    main()
