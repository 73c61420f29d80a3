"""The planner's estimates of memory beside what is used: python benchmarks/models/memory.py

Each case runs in a process of its own, in float32 on the CPU; used is the highest resident memory
over that before the network was made, after a tiny one has loaded the libraries.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.harness import DIRTY, RESULTS, machine
from convflow.models.zoo import create_model
from convflow.training.ema import EMA
from convflow.training.planner import Work

NAMES = ["flowdcn-s/2", "dico-s", "fcdm-s", "dit-s/2"]
CASES = [
    (name, training, batch, pixels)
    for name in NAMES
    for training, batch, pixels in (
        (False, 32, 512),
        (False, 4, 1024),
        (True, 8, 256),
        (True, 2, 512),
    )
]


def main() -> None:
    """Measure all cases, print them and write `results/memory_cpu.csv`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", help="one of them, as JSON; for the processes")
    parser.add_argument(DIRTY, action="store_true", help="allow uncommitted changes")
    options = parser.parse_args()
    if options.case:
        print(_used(*json.loads(options.case)))
        return
    notes, rows = machine(), []
    for name, training, batch, pixels in CASES:
        words = [sys.executable, __file__, "--case", json.dumps([name, training, batch, pixels])]
        used = int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        work = Work(lambda name=name: create_model(name), (pixels, pixels), batch, factor=8)
        estimate = work.needs(training)
        mode = "training" if training else "sampling"
        rows.append({"network": name, "mode": mode, "batch": batch, "pixels": pixels,
                     "estimate_mib": round(estimate / 2**20), "used_mib": round(used / 2**20),
                     "ratio": f"{estimate / used:.2f}"})  # fmt: skip
        print(*rows[-1].values(), flush=True)
    with (RESULTS / "memory_cpu.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *notes], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **notes} for row in rows)


def _used(name: str, training: bool, batch: int, pixels: int) -> int:
    """Return the most bytes that a step or an evaluation held."""
    torch.set_num_threads(1)
    family = name.partition("-")[0]
    tiny = {"width": 48} if family in ("dico", "fcdm") else {"width": 48, "depth": 1}
    _run(create_model(family, **tiny), training, 1, 8)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    _run(create_model(name), training, batch, pixels // 8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def _run(model: torch.nn.Module, training: bool, batch: int, cells: int) -> None:
    for parameter in model.parameters():  # heads of zeros would stop the gradient
        torch.nn.init.normal_(parameter, std=0.02)
    inputs = (torch.randn(batch, 4, cells, cells), torch.rand(batch), torch.zeros(batch).long())
    if not training:
        with torch.inference_mode():
            model(*inputs)
        return
    ema = EMA(model, 0.999, 10)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    for step in range(2):
        model(*inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(model, step)


if __name__ == "__main__":
    main()
