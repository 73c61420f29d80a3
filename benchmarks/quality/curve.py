"""Draw the loss curve of a run.

python benchmarks/quality/curve.py runs/cifar10.flowdcn docs/images/cifar10_loss.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np


def main() -> None:
    """Read `metrics.jsonl` of a run and write the image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--window", type=int, default=20, help="lines averaged")
    options = parser.parse_args()

    rows = [json.loads(line) for line in (options.run / "metrics.jsonl").read_text().splitlines()]
    images = np.array([row["images"] for row in rows])
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), constrained_layout=True)
    for axis, name in zip(axes, ("loss", "gradient_norm"), strict=True):
        values = np.array([row[name] for row in rows])
        axis.plot(images, values, color="0.8", linewidth=0.6)
        window = min(options.window, len(values))
        smooth = np.convolve(values, np.ones(window) / window, mode="valid")
        axis.plot(images[window - 1 :], smooth, color="C0")
        axis.set_xlabel("images seen")
        axis.set_ylabel(name.replace("_", " "))
        axis.set_ylim(0, float(np.quantile(values, 0.98)) * 1.1)
        axis.grid(alpha=0.3)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
