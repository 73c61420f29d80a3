"""Estimates of memory beside what is used: python benchmarks/models/memory.py

Each case runs in a process of its own, in float32 on the CPU. Held is the most that tensors held,
weights included; resident is the process's highest memory over that before the network was made,
after a tiny one has loaded the libraries: the C library keeps pieces of less than 32 MiB for later.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.harness import DIRTY, RESULTS, machine, peak_mib, write_table
from convflow.models.memory import MemoryEstimate
from convflow.models.zoo import create_model
from convflow.training.ema import EMA

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
        print(json.dumps(_used(*json.loads(options.case))))
        return
    machine()  # refuses now rather than after minutes
    rows = []
    for name, training, batch, pixels in CASES:
        words = [sys.executable, __file__, "--case", json.dumps([name, training, batch, pixels])]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        held, resident = json.loads(done.stdout)
        build, size = partial(create_model, name), (pixels, pixels)
        estimate = MemoryEstimate(build, size, batch, factor=8, training=training).needs()
        mode = "training" if training else "sampling"
        rows.append({"network": name, "mode": mode, "batch": batch, "pixels": pixels,
                     "estimate_mib": round(estimate / 2**20), "held_mib": round(held),
                     "resident_mib": round(resident), "ratio": f"{estimate / 2**20 / held:.2f}",
                     "ratio_resident": f"{estimate / 2**20 / resident:.2f}"})  # fmt: skip
        print(*rows[-1].values(), flush=True)
    write_table(RESULTS / "memory_cpu.csv", rows)


def _used(name: str, training: bool, batch: int, pixels: int) -> tuple[float, float]:
    """Return the most MiB that tensors held in a step or an evaluation, and the process."""
    torch.set_num_threads(1)
    family = name.partition("-")[0]
    tiny = {"width": 48} if family in ("dico", "fcdm") else {"width": 48, "depth": 1}

    def run() -> None:
        _run(create_model(name), training, batch, pixels // 8)

    _run(create_model(family, **tiny), training, 1, 8)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    run()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return peak_mib(run), resident / 2**20


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
