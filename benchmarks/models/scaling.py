"""How time and memory of an evaluation grow with the pixels: python benchmarks/models/scaling.py

Networks of 1000 classes on 8x latents of random numbers, one square picture at a time, float32,
eager. Each case runs in a process of its own: the median of its times, and the highest resident
memory over that before. Exponents are fitted from 512 pixels a side on, so that the fixed cost of
a call does not count.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.harness import DIRTY, RESULTS, machine
from convflow.models.zoo import create_model

NAMES = ["flowdcn-s/2", "dico-s", "fcdm-s", "dit-s/2"]
SIDES = [256, 512, 768, 1024, 1536, 2048]
FITTED = 512
"""The smallest side of the fit."""


def main() -> None:
    """Measure all cases, fit, print, and write `results/scaling_DEVICE.csv`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", help="one of them, as JSON; for the processes")
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES, help="in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(DIRTY, action="store_true", help="allow uncommitted changes")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(_measure(*json.loads(options.case))))
        return
    notes, rows = machine(), []
    for name in NAMES:
        found = []
        for side in options.sides:
            words = [sys.executable, __file__, "--case", json.dumps([name, side, options.rounds])]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            found.append((side, *json.loads(done.stdout)))
            print(
                f"{name} {side}: {found[-1][1]:.3f} s, {found[-1][2] / 2**20:.0f} MiB", flush=True
            )
        large = np.array([row for row in found if row[0] >= FITTED])
        pixels = np.log(large[:, 0] ** 2)
        exponents = [np.polyfit(pixels, np.log(large[:, i]), 1)[0] for i in (1, 2)]
        print(f"{name}: time ~ pixels^{exponents[0]:.2f}, memory ~ pixels^{exponents[1]:.2f}")
        rows += [
            {"network": name, "side": side, "seconds": f"{seconds:.4g}",
             "mib": round(used / 2**20), "time_exponent": f"{exponents[0]:.3f}",
             "memory_exponent": f"{exponents[1]:.3f}"}
            for side, seconds, used in found
        ]  # fmt: skip
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with (RESULTS / f"scaling_{device}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *notes], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **notes} for row in rows)


def _measure(name: str, side: int, rounds: int) -> tuple[float, int]:
    """Return seconds of an evaluation and the most bytes that it held beside the weights."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = create_model(name).to(device).eval()
    cells = side // 8

    def inputs(cells: int) -> tuple[torch.Tensor, ...]:
        x = torch.randn(1, 4, cells, cells, device=device)
        return x, torch.rand(1, device=device), torch.zeros(1, dtype=torch.int64, device=device)

    def seconds() -> float:
        begun = time.perf_counter()
        model(*given)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    with torch.inference_mode():
        model(*inputs(8))  # libraries load
        before = _held(device)
        given = inputs(cells)
        seconds()
        times = [seconds() for _ in range(rounds)]
    if device.type == "cuda":
        return median(times), torch.cuda.max_memory_allocated() - before
    return median(times), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def _held(device: torch.device) -> int:
    """Return the bytes that this process holds now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
