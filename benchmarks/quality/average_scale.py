"""Digits by one and two evaluations of average velocities, with times told at several scales.

    python benchmarks/quality/average_scale.py [--scales 1 30 1000] [--seeds 0] [--images 32000]

A FlowDCN of 0.3 million parameters is trained with the process meanflow, guidance 2 and mixture
0.5, on the same images in the same order for every `--model.time-scale`. The judge of `digits.py`
labels 1,000 samples. "Pixel FD" is the Frechet distance of the 64 pixels of these samples from all
1,797 digits. Writes `results/average_scale.csv`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.harness import RESULTS, machine, write_table
from benchmarks.quality.digits import NEEDED, train_judge
from convflow.evaluation.metrics import frechet_distance
from convflow.evaluation.statistics import Statistics
from convflow.pipeline import Pipeline
from convflow.recipes import create_config
from convflow.training.launch import train
from convflow.training.overrides import override

SETTINGS = (
    "--model.width 64 --model.depth 4 --model.num-groups 2 --batch-size 32 --optim.warmup-images "
    "1024 --process meanflow --process.guidance 2 --process.mixture 0.5 --device cpu --precision "
    "float32 --monitor.tensorboard false --monitor.samples-minutes 1e6"
)
STEPS = (1, 2)


def main() -> None:
    """Train with every scale, judge the samples, and print a row for each number of steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scales", type=float, nargs="+", default=[1, 30, 1000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--images", type=int, default=32_000)
    parser.add_argument("--num", type=int, default=1000, help="samples of each row")
    parser.add_argument("--dirty", action="store_true", help="allow uncommitted changes")
    options = parser.parse_args()
    machine()  # refuses now rather than after minutes
    judge, accuracy = train_judge()
    if accuracy < NEEDED:
        raise SystemExit(f"the judge needs at least {NEEDED:.0%}, and has {accuracy:.2%}")
    real = statistics(torch.from_numpy(load_digits().data) / 16)
    rows = []
    for seed in options.seeds:
        for scale in options.scales:
            words = f"{SETTINGS} --model.time-scale {scale:g} --images {options.images}"
            config = override(create_config("digits.flowdcn"), [*words.split(), f"--seed={seed}"])
            with TemporaryDirectory() as folder:
                train(config, Path(folder))
                pipe = Pipeline.from_pretrained(folder, device="cpu")
                lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            losses = [line["loss"] for line in map(json.loads, lines) if "loss" in line]
            for steps in STEPS:
                made = pipe(num=options.num, steps=steps, seed=1, batch_size=250)
                pixels = made.pixels.flatten(1).double() / 255
                asked = np.array([int(label) for label in made.labels])
                right = (judge.predict(pixels.numpy()) == asked).mean()
                row = {"time_scale": f"{scale:g}", "seed": str(seed), "steps": str(steps)}
                row |= {"right": f"{right:.3f}", "pixel_fd": f"{distance(real, pixels):.3f}"}
                rows.append(row | {"last_loss": f"{losses[-1]:.3g}"})
                print(*rows[-1].values(), flush=True)
    write_table(RESULTS / "average_scale.csv", rows, images=options.images, num=options.num)


def statistics(pixels: Tensor) -> Statistics:
    """Return mean and covariance of images as vectors."""
    found = Statistics(pixels.shape[1])
    found.update(pixels)
    return found


def distance(real: Statistics, pixels: Tensor) -> float:
    """Return the Frechet distance of images, as vectors, from others."""
    made = statistics(pixels)
    return frechet_distance(real.mean, real.covariance, made.mean, made.covariance)


if __name__ == "__main__":
    main()
