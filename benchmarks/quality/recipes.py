"""The four backbones at one size: CIFAR-10 recipes trained alike and scored on the way.

python benchmarks/quality/recipes.py [--data ../shared/data/cifar10]

FlowDCN, DiCo, FCDM and SiT of about 5 million parameters see the same images, with the settings
of `cifar10.flowdcn` but for batches of 32 and a shorter warm-up of the learning rate. Samples are
drawn without guidance.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.quality.contest import SCORES, Contender, Way, add_options, race

SHORT = ["--optim.warmup-images", "1024"]
CONTENDERS = [
    Contender(name, f"cifar10.{name}", SHORT) for name in ("flowdcn", "dico", "fcdm", "sit")
]
PLAIN = ["--solver", "ab2", "--steps", "10", "--guidance", "1", "--precision", "bfloat16"]


def main() -> None:
    """Run the race, and print it as the table of the docs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    options = parser.parse_args()
    rows = race(CONTENDERS, [Way("plain", PLAIN)], options, "recipes")
    print(
        f"\n| recipe | seed | images seen | {' | '.join(SCORES)} |\n|{'---|' * (3 + len(SCORES))}"
    )
    for row in rows:
        shown = [row[key] for key in ("contender", "seed", "images", *SCORES)]
        print(f"| {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
