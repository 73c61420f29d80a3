"""Sampling from small networks on one thread and on as many as torch has, from Python.

Run it as `python benchmarks/samplers/threads.py` from the repository, `--beside 1` to have a busy
program beside it, `--quick` to see it work.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import harness
from convflow import generate
from convflow.bench import models, table
from convflow.codecs import PixelCodec
from convflow.pipeline import Pipeline
from convflow.types import Disagreement

NETWORKS = {
    "tiny": {"width": 32, "depth": 2, "num_groups": 2},
    "digits": {"width": 192, "depth": 5, "num_groups": 6},
}
BATCHES = {"tiny": (16, 64), "digits": (1, 16, 64)}
SIZE, STEPS, GUIDANCE = (8, 8), 2, 1.5
BUSY = "while True: pass"


def main() -> None:
    """Measure, print and write the table, which grows with each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--beside", type=int, default=0, metavar="N", help="programs that keep a core busy each")
    add("--rounds", type=int, default=5, help="how often both have their turn")
    add("--quick", action="store_true", help="the tiny network alone, no table")
    add(harness.DIRTY, action="store_true", help="allow numbers that no revision can repeat")
    options = parser.parse_args()

    harness.machine()  # refuses now rather than after minutes
    rows = list[harness.BenchRow]()
    with busy(options.beside):
        for name in ["tiny"] if options.quick else NETWORKS:
            settings = {**NETWORKS[name], "in_channels": 1, "num_classes": 10}
            model = models.create_noisy("flowdcn", torch.device("cpu"), **settings)
            pipe = Pipeline(model, PixelCodec(), SIZE, device="cpu")
            series = pipe.samples(solver="euler", steps=STEPS, guidance=GUIDANCE)
            shapes = [(batch, *series.shape) for batch in BATCHES[name]]
            case = harness.Case(name, partial(set_up, series), shapes, [f"{STEPS} steps"])
            rows += harness.measure(case, 2 if options.quick else options.rounds)
            if not options.quick:
                path = harness.RESULTS / "threads_cpu.csv"
                harness.write(path, rows, beside=str(options.beside))
    print(*table.lines([table.cells(vars(row)) for row in rows]), harness.machine(), sep="\n")


def set_up(
    series: generate.Samples, shape: tuple[int, ...], mode: str
) -> Mapping[str, harness.Call]:
    """One batch on all threads and on one, which must give the same images.

    Raises:
        Disagreement: they do not.
    """

    def read(little: float) -> torch.Tensor:
        with mock.patch.object(generate, "LITTLE_WORK", little):
            return series.read(range(shape[0]))

    rivals = {"one thread": partial(read, torch.inf), "all threads": partial(read, 0)}
    one, other = (rival() for rival in rivals.values())
    if not one.equal(other):
        raise Disagreement("expected the same images on one thread and on several")
    return rivals


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep so many cores busy for the length of the block."""
    programs = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


if __name__ == "__main__":
    main()
