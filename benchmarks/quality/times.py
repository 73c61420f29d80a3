"""Draw the times of the scales over the steps of a staged run.

python benchmarks/quality/times.py docs/images/multiscale_times.png
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import matplotlib.pyplot as plt

from convflow.processes.stages import THRESHOLD, plan_stages

RUNS = [(30, 10), (20, 10, 10)]


def main() -> None:
    """Write the image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    figure, axes = plt.subplots(1, len(RUNS), figsize=(9, 3), sharey=True, layout="constrained")
    for axis, steps in zip(axes, RUNS, strict=True):
        stages = plan_stages(steps, [THRESHOLD] * (len(steps) - 1))
        ends = [0, *itertools.accumulate(steps)]
        for scale in range(len(steps)):
            times = [stages[scale].start[scale], *(stage.end[scale] for stage in stages[scale:])]
            axis.plot(ends[scale:], times, marker="o", label=f"scale {scale + 1}", clip_on=False)
        for end in ends[1:-1]:
            axis.axvline(end, color="0.8", zorder=0)
        axis.set_title(" + ".join(map(str, steps)) + " steps")
        axis.set_xlabel("step")
        axis.set_xlim(0, ends[-1])
        axis.set_ylim(0, 1)
        axis.legend(loc="upper left", frameon=False)
    axes[0].set_ylabel("time: 0 = noise, 1 = data")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
