"""How fast `deform_sample` is on the CPU, beside two composites and the second-level cache.

Run it as `python benchmarks/ops/deform.py` from the repository; `convflow bench ops` shows the same
on any machine, and the rivals are there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numba

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import harness
from convflow.bench import table
from convflow.bench.ops import NOTE, OP_MODES, OP_SHAPES, check_rivals, set_up
from convflow.types import Disagreement


def main() -> None:
    """Check, measure, print and write the table."""
    try:
        for shape in OP_SHAPES:
            check_rivals(shape)
    except Disagreement as error:
        raise SystemExit(str(error)) from error
    rows = harness.measure(harness.Case("deform_sample", set_up, OP_SHAPES, OP_MODES))
    print(NOTE, "\n")
    print(*table.lines([table.cells(vars(row)) for row in rows]), sep="\n")
    path = harness.RESULTS / "deform_cpu.csv"
    harness.write(path, rows, numba=numba.__version__)
    print(f"\n{harness.machine()}\nwritten to {path}")


if __name__ == "__main__":
    main()
