"""What matters in decomposable flow matching of small images.

python benchmarks/quality/dfm_sweep.py [--data ../shared/data/cifar10] [--backbone dico]

The FlowDCN of `dfm.py` with one setting of DFM changed at a time, in training or in sampling, and a
few together with blocks of cosines in place of the pyramid.
Writes `results/dfm_sweep.csv`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.quality.contest import Contender, Way, add_options, race
from benchmarks.quality.dfm import EULER, PROCESSES, SHORT, SMALL, WAYS

TRAINED: dict[str, list[str]] = {
    "published": [],
    "main 0.7": ["probabilities", "0.7,0.3"],
    "main 0.5": ["probabilities", "0.5,0.5"],
    "later 1": ["location", "1"],
    "later 1.5": ["location", "1.5"],
    "later 2": ["location", "2"],
    "coarse later 1": ["locations", "1,0"],
    "fine later 1": ["locations", "0,1"],
    "fine weight 4": ["weights", "1,4"],
    "haar": ["decomposition", "haar"],
    "dct": ["decomposition", "dct"],
    "dct, later 0.5": ["decomposition", "dct", "location", "0.5"],
    "dct, later 1": ["decomposition", "dct", "location", "1"],
    "dct, fine later 1": ["decomposition", "dct", "locations", "0,1"],
    "factor 4": ["factors", "4"],
}
"""Changes of the process: keys and values by turns."""

SAMPLED: dict[str, list[str]] = {
    "threshold 0.7": ["--thresholds", "0.7"],
    "threshold 0.97": ["--thresholds", "0.97"],
    "steps 10,10": ["--stage-steps", "10,10"],
    "steps 30,30": ["--steps", "60", "--stage-steps", "30,30"],
}
"""Changes of sampling, tried on the published process; `steps 30,30` costs three times as much."""


def main() -> None:
    """Run the sweep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--backbone", choices=SMALL, default="flowdcn")
    parser.set_defaults(images=[20480], runs=Path("runs/dfm_sweep"))
    options = parser.parse_args()
    plain = WAYS[0]
    more = [Way(name, [*EULER, "--guidance", "1", *words]) for name, words in SAMPLED.items()]
    shared = [*SMALL[options.backbone], *SHORT]
    recipe = f"cifar10.{options.backbone}"
    flow = [*shared, *PROCESSES["flow"]]
    contenders = [
        Contender("flow", recipe, flow),
        Contender("flow, earlier 0.5", recipe, [*flow, "--process.location", "-0.5"]),
        Contender("flow, later 1", recipe, [*flow, "--process.location", "1"]),
    ]
    for name, change in TRAINED.items():
        pairs = zip(change[::2], change[1::2], strict=True)
        words = [word for key, value in pairs for word in (f"--process.{key}", value)]
        ways = [plain, *more] if not change else []
        contenders.append(Contender(name, recipe, [*shared, *PROCESSES["dfm"], *words], ways))
    race(contenders, [plain], options, "dfm_sweep")


if __name__ == "__main__":
    main()
