"""How time and memory of an evaluation grow with the pixels.

THP_MEM_ALLOC_ENABLE=1 python benchmarks/models/scaling.py

The variable, which `convflow sample` sets itself, puts large tensors into huge pages. Networks of
1000 classes on 8x latents of random numbers, one square image at a time, float32, eager. Memory
is the most that tensors held at once beside weights and inputs. Exponents are fitted from 512
pixels a side on, so that the fixed cost of a call does not count.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.harness import DIRTY, RESULTS, Call, Case, measure, write
from convflow.models.zoo import create_model

NAMES = ["flowdcn-s/2", "dico-s", "fcdm-s", "dit-s/2"]
SIDES = [256, 512, 768, 1024, 1536, 2048]
FITTED = 512
"""The smallest side of the fit."""


def main() -> None:
    """Measure all sizes, print the exponents, and write `results/scaling_DEVICE.csv`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES, help="in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(DIRTY, action="store_true", help="allow uncommitted changes")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = {name: create_model(name).to(device).eval() for name in NAMES}

    def set_up(shape: tuple[int, ...], mode: str) -> Mapping[str, Call]:
        x = torch.randn(1, 4, shape[0] // 8, shape[1] // 8, device=device)
        t, y = torch.rand(1, device=device), torch.zeros(1, dtype=torch.int64, device=device)
        return {name: partial(model, x, t, y) for name, model in models.items()}

    case = Case("scaling", set_up, [(side, side) for side in options.sides], ["forward"])
    with torch.inference_mode():
        rows = measure(case, options.rounds)
    for row in rows:
        print(f"{row.shape} {row.rival}: {row.median_ms:.0f} ms, {row.peak_mib:.1f} MiB")
    for name in NAMES:
        found = [(int(row.shape.split("x")[0]), row) for row in rows if row.rival == name]
        large = [(side, row) for side, row in found if side >= FITTED] or found
        pixels = np.log([side**2 for side, _ in large])
        time, memory = (
            np.polyfit(pixels, np.log([getattr(row, unit) for _, row in large]), 1)[0]
            for unit in ("median_ms", "peak_mib")
        )
        print(f"{name}: time ~ pixels^{time:.2f}, memory ~ pixels^{memory:.2f}")
    huge = os.environ.get("THP_MEM_ALLOC_ENABLE", "0")
    write(RESULTS / f"scaling_{device.type}.csv", rows, huge_pages=huge)


if __name__ == "__main__":
    main()
