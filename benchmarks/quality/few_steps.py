"""One and two evaluations of average velocities beside 2, 8 and 32 of a flow, on CIFAR-10.

python benchmarks/quality/few_steps.py [--data ../shared/data/cifar10] [--only flow mean]

A FlowDCN of about a million parameters is trained as a flow and with the process meanflow, on the
same images in the same order. The times of "mean" are those that MeanFlow's authors give for
CIFAR-10; "own" differentiates along the network's own velocity; "guided" is trained with guidance,
beside which the flow is sampled with guidance too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.quality.contest import SCORES, Contender, Way, add_options, race
from benchmarks.quality.objectives import NETWORKS

SHORT = [*NETWORKS["flowdcn"].split(), "--optim.warmup-images", "1024"]
MEAN = [*SHORT, "--process", "meanflow", "--process.apart", "0.75", "--process.power", "0.75"]
MEAN += ["--process.location", "0.6", "--process.scale", "1.6"]
MEAN += ["--process.end-location", "4", "--process.end-scale", "1.6"]
GUIDED = ["--process.guidance", "2", "--process.mixture", "0.5"]

EULER = ["--solver", "euler", "--precision", "bfloat16"]
AVERAGE = ["--solver", "average", "--precision", "bfloat16"]
FLOW_WAYS = [
    Way(f"euler-{steps}-{guidance}", [*EULER, "--steps", steps, "--guidance", guidance])
    for steps, guidance in (("2", "1"), ("8", "1"), ("32", "1"), ("32", "2"))
]
MEAN_WAYS = [Way(f"average-{steps}", [*AVERAGE, "--steps", steps]) for steps in ("1", "2")]
CONTENDERS = [
    Contender("flow", "cifar10.flowdcn", SHORT, FLOW_WAYS),
    Contender("mean", "cifar10.flowdcn", MEAN, MEAN_WAYS),
    Contender("own", "cifar10.flowdcn", [*MEAN, "--process.tangent", "own"], MEAN_WAYS),
    Contender("guided", "cifar10.flowdcn", [*MEAN, *GUIDED], MEAN_WAYS),
]


def main() -> None:
    """Run the race, and print it as a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    options = parser.parse_args()
    rows = race(CONTENDERS, MEAN_WAYS, options, "few_steps")
    shown = ("contender", "seed", "images", "way", *SCORES)
    print(f"\n| {' | '.join(shown)} |\n|{'---|' * len(shown)}")
    for row in rows:
        print(f"| {' | '.join(row[key] for key in shown)} |")


if __name__ == "__main__":
    main()
