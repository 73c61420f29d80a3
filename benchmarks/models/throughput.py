"""How fast the networks are, beside DiT of the same size and beside their own matrix products.

Run it as `python benchmarks/models/throughput.py` from the repository; `--quick` to see it work.
`convflow bench models` and `convflow bench training` show the same on any machine.
"""

from __future__ import annotations

import argparse
import re
import sys
from functools import cache, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import harness
from convflow.bench import models, table
from convflow.bench.harness import over_limits
from convflow.distributed import choose_device
from convflow.models.zoo import SIZES
from convflow.types import Disagreement

NAMES = [name for name in SIZES if re.search(r"-[sb](/2)?$", name)]


def main() -> None:
    """Measure, print and write the table."""
    device = choose_device()
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--models", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    add("--sizes", nargs="+", type=int, default=[256, 512], metavar="PIXELS")
    add("--batch", type=int, default=8, help="pictures at once")
    add("--modes", nargs="+", choices=models.MODES, default=models.MODES)
    add("--rounds", type=int, default=7, help="how often every rival has its turn")
    add("--no-compile", action="store_true", help="leave out torch.compile")
    add("--table", default=f"throughput_{device.type}", metavar="NAME", help="in results/")
    add("--quick", action="store_true", help="one picture of 256 pixels, two rounds, no table")
    add(harness.DIRTY, action="store_true", help="allow numbers that no revision can repeat")
    options = parser.parse_args()
    shapes = [(options.batch, side, side) for side in options.sizes]
    rounds, setting = options.rounds, models.Setting(device, compiles=not options.no_compile)
    if options.quick:
        shapes, rounds = [(1, 256, 256)], 2

    harness.machine()  # refuses now rather than after minutes
    print(models.NOTE, "\n")

    @cache
    def find(name: str) -> models.Subject:
        return models.prepare(name, shapes[0], options.modes, setting)

    rows = []
    for name in options.models:
        try:
            ours = find(name)
        except Disagreement as error:
            raise SystemExit(str(error)) from error
        if isinstance(ours.compiled, str):
            print(f"{name}: no compiled numbers, {ours.compiled}")
        set_up = partial(models.set_up, find, setting, name)
        rows += harness.measure(harness.Case(ours.title, set_up, shapes, options.modes), rounds)
    print(*table.lines([models.cells(row) for row in rows]), sep="\n")
    print(*over_limits(rows, [models.FLOOR]), sep="\n")
    if not options.quick:
        path = harness.RESULTS / f"{options.table}.csv"
        harness.write(path, rows)
        print(f"\n{harness.machine()}\nwritten to {path}")


if __name__ == "__main__":
    main()
