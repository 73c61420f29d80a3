"""Score a class-conditional CIFAR-10 model: distances, and how often a classifier agrees.

    python -m benchmarks.quality.shipped [MODEL] [--num 5000] [--guidance 1 2] [--table shipped]

For each scale of guidance `convflow evaluate` draws samples, balanced over the classes, and
compares them with all training images by the small network of CIFAR-10. The same network then names
the class of each sample: `agrees` is the share that got the class that was asked for. The last row
holds the real test images. Cards lie beside the samples in --out; one that is there is not made
again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks import harness
from benchmarks.quality.cifar10_network import DATA, NUM_CLASSES, accuracy, load, read
from benchmarks.quality.contest import DETECTOR, FLOOR, SCORES


def main() -> None:
    """Sample, score, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("model", nargs="?", default="shipped:cifar10", help="any model (default: shipped:cifar10)")
    add("--data", type=Path, default=DATA, help="folder with train.parquet and test.parquet")
    add("--num", type=int, default=5000, help="samples, a multiple of 10, and test images")
    add("--guidance", type=float, nargs="+", default=[1.0, 2.0], help="scales of guidance")
    add("--weights", default=None, help="weights of a run (default: ema)")
    add("--solver", nargs="+", default=["ab4", "12"], help="name and steps of the solver")
    add("--precision", default="bfloat16", help="arithmetic of the samples")
    add("--out", type=Path, default=Path("runs/shipped"), help="where cards and samples lie")
    add("--table", default="shipped", help="name of the table in results/")
    add(harness.DIRTY, action="store_true", help="allow numbers that no revision can repeat")
    options = parser.parse_args()
    notes = harness.machine()  # refuses now rather than after minutes
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for guidance in options.guidance:
        rows.append(score(options, guidance))
        print(rows[-1], flush=True)
    rows.append(floor(options))
    print(rows[-1])
    path = harness.RESULTS / f"{options.table}.csv"
    harness.write_table(path, rows, num=options.num, model=options.model)
    print(notes, f"written to {path}", sep="\n")


def score(options: argparse.Namespace, guidance: float) -> dict[str, str]:
    """Return the scores of samples with a scale of guidance, and how many get their class."""
    solver, steps = options.solver
    name = "_".join([Path(options.model).name.replace(":", "-"), options.weights or "ema", solver,
                     steps, f"{guidance:g}", str(options.num)])  # fmt: skip
    card = options.out / f"{name}.json"
    words = ["--guidance", f"{guidance:g}", "--solver", solver, "--steps", steps, "--precision",
             options.precision, "--label-policy", "balanced"]  # fmt: skip
    words += ["--weights", options.weights] if options.weights else []
    found = evaluate(options, options.model, card, *words)
    with np.load(card.with_suffix(".npz")) as kept:
        pixels = torch.from_numpy(kept["arr_0"]).movedim(-1, 1)
    asked = torch.arange(len(pixels)) % NUM_CLASSES
    share = accuracy(load(), pixels, asked)
    return {
        "samples": f"{solver}, {steps} steps, {options.weights or 'ema'}",
        "guidance": f"{guidance:g}", **found, "agrees": f"{share:.3f}",
    }  # fmt: skip


def floor(options: argparse.Namespace) -> dict[str, str]:
    """Return the scores of as many real test images, and how many the classifier knows."""
    test = str(options.data / "test.parquet")
    found = evaluate(options, test, options.out / f"test_{options.num}.json")
    share = accuracy(load(), *read(options.data, "test", options.num))
    return {"samples": FLOOR, "guidance": "", **found, "agrees": f"{share:.3f}"}


def evaluate(options: argparse.Namespace, what: str, card: Path, *words: str) -> dict[str, str]:
    """Return the scores of a card, which `convflow evaluate` makes if it is not there."""
    reference = options.out / "train.npz"
    if not reference.is_file():
        train = str(options.data / "train.parquet")
        convflow("evaluate", train, "--detector", DETECTOR, "--save-statistics", str(reference))
    if not card.is_file():
        samples = card.with_suffix(".npz")
        keep = [] if what.endswith(".parquet") else ["--save-samples", str(samples)]
        given = ["--num", str(options.num), "--size", "32x32", "--out", str(card)]
        against = ["--reference", str(reference), "--detector", DETECTOR]
        convflow("evaluate", what, *against, *given, *keep, *words)
    known = json.loads(card.read_text(encoding="utf-8"))
    found = {title.rpartition("-")[0]: value for title, value in known["scores"].items()}
    return {title: f"{found[title]:.4g}" for title in SCORES}


def convflow(*words: str) -> None:
    """Run a command of convflow."""
    subprocess.run([sys.executable, "-m", "convflow", *words], check=True)


if __name__ == "__main__":
    main()
