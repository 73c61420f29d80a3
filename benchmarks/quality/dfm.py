"""Flow matching against decomposable flow matching: the same backbones, images and seeds.

python benchmarks/quality/dfm.py [--data ../shared/data/cifar10]

Small FlowDCN and SiT with patches of 4 (of 2 for the coarse scale) and a small DiCo learn CIFAR-10
with the settings of `cifar10.*`, but for logit-normal times, batches of 32 and a shorter warm-up.
The tuned DFM is the best of `dfm_sweep.py`, in which flow matching with other times was no better.
Samples take 20 evaluations of Euler's method, 15 + 5 for two scales, with guidance 1 and 1.5.
Writes `results/dfm.csv` and `docs/images/dfm.png`.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.harness import RESULTS
from benchmarks.quality.contest import Contender, Way, add_options, race

SMALL = {
    "sit": ["--model.width", "96", "--model.patch-size", "4"],
    "flowdcn": ["--model.width", "96", "--model.patch-size", "4"],
    "dico": ["--model.width", "28", "--model.depths", "2,2,2,2,2"],
}
PROCESSES = {
    "flow": ["--process.times", "logit-normal"],
    "dfm": ["--process", "dfm"],
    "dfm-tuned": ["--process=dfm", "--process.decomposition=dct", "--process.location=0.5"],
}
SHORT = ["--optim.warmup-images", "1024"]
CONTENDERS = [
    Contender(f"{backbone}-{process}", f"cifar10.{backbone}", [*small, *SHORT, *words])
    for process, words in PROCESSES.items()
    for backbone, small in SMALL.items()
]
EULER = ["--solver", "euler", "--steps", "20", "--precision", "bfloat16"]
WAYS = [Way(f"guidance {scale}", [*EULER, "--guidance", scale]) for scale in ("1", "1.5")]


def main() -> None:
    """Run the race, print how much lower the distances are, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.set_defaults(images=[8192, 20480, 40960])
    options = parser.parse_args()
    rows = race(CONTENDERS, WAYS, options, "dfm")
    for backbone in SMALL:
        for way in WAYS:
            found = {each: _mean(rows, f"{backbone}-{each}", way.name) for each in PROCESSES}
            reported = (
                f"{name} {fd:.2f} ({fd / found['flow'] - 1:+.0%})" for name, fd in found.items()
            )
            print(f"{backbone}, {way.name}: FD {', '.join(reported)}")
    _draw(rows, RESULTS.parents[1] / "docs/images/dfm.png")


def _mean(rows: list[dict[str, str]], contender: str, way: str) -> float:
    """Return the distance at the end, averaged over seeds and draws; NaN without any."""
    found = [row for row in rows if (row["contender"], row["way"]) == (contender, way)]
    end = max((int(row["images"]) for row in found), default=0)
    last = [float(row["FD"]) for row in found if int(row["images"]) == end]
    return sum(last) / len(last) if last else math.nan


def _draw(rows: list[dict[str, str]], out: Path) -> None:
    """Draw the distance over images seen, a point for each seed and draw."""
    figure, axes = plt.subplots(1, len(SMALL), figsize=(10, 3.4), sharey=True, layout="constrained")
    for axis, backbone in zip(axes, SMALL, strict=True):
        for color, process in zip(("C7", "C0", "C1"), PROCESSES, strict=True):
            for style, way in zip(("-", "--"), WAYS, strict=True):
                points: dict[int, list[float]] = {}
                for row in rows:
                    if (row["contender"], row["way"]) == (f"{backbone}-{process}", way.name):
                        points.setdefault(int(row["images"]), []).append(float(row["FD"]))
                if not points:
                    continue
                means = [sum(values) / len(values) for values in points.values()]
                label = f"{process}, {way.name}"
                axis.plot(list(points), means, style, color=color, label=label)
                for images, values in points.items():
                    axis.plot([images] * len(values), values, ".", color=color)
        axis.axhline(float(rows[-1]["FD"]), color="0.6", linestyle=":", label="real test images")
        axis.set_ylim(bottom=0)
        axis.set_title(backbone)
        axis.set_xlabel("images seen")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("Fréchet distance (small network)")
    axes[-1].legend(frameon=False, fontsize="small")
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
