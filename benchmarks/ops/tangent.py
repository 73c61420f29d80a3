"""How fast the forward derivative of `deform_sample` is, beside the reference and its own sums.

python benchmarks/ops/tangent.py [--step]

The shapes and offsets are those of `benchmarks/ops/deform.py`. With --step it also prints the time
and the memory of a training step of FlowDCN-S/2, as a flow and with average velocities.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch.autograd import forward_ad

from benchmarks import harness
from convflow.bench.ops import OP_SHAPES, draw
from convflow.models.zoo import create_model
from convflow.ops.deform import op, reference
from convflow.processes.flow import FlowMatching
from convflow.processes.meanflow import MeanFlow

PARTS = (0.25, 1.0)
"""Shares of samples whose two times differ."""


def milliseconds(call: Callable[[], object], rounds: int) -> float:
    """Return the median time of a call after one that warms up."""
    call()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)


def operator(rounds: int) -> None:
    """Print the operator's times in each shape."""
    for shape in OP_SHAPES:
        _, *inputs = draw(shape)
        tangents = [torch.randn_like(tensor) for tensor in inputs]

        def by_reference(inputs=inputs, tangents=tangents) -> None:
            with torch.no_grad(), forward_ad.dual_level():
                pairs = map(forward_ad.make_dual, inputs, tangents)
                forward_ad.unpack_dual(reference.deform_sample(*pairs, "zeros"))

        given = (*inputs, *tangents, "zeros")
        sums = milliseconds(lambda i=inputs: op._sample(*i, "zeros"), rounds)
        kernel = milliseconds(lambda g=given: op._sample_tangent(*g), rounds)
        truth = milliseconds(by_reference, 3)
        print(
            f"{shape}: sums {sums:.2f} ms, tangent {kernel:.2f} ms ({kernel / sums:.2f} of the "
            f"sums), reference with its sums {truth:.1f} ms ({truth / (sums + kernel):.1f} times)"
        )


def step(rounds: int) -> None:
    """Print time and peak of resident memory of a step of FlowDCN-S/2, two images of 256 pixels."""
    generator = torch.Generator().manual_seed(0)
    data, labels = torch.randn(2, 4, 32, 32, generator=generator), torch.zeros(2, dtype=torch.int64)
    cases = {"flow": FlowMatching()} | {f"{p:g} apart": MeanFlow(apart=p) for p in PARTS}
    for name, process in cases.items():
        model = create_model("flowdcn-s/2", second_time=process.second_time)
        draws = process.draw(tuple(data.shape), generator)

        def train(model=model, process=process, draws=draws) -> None:
            process.loss_at(model, data, labels, draws).sum().backward()
            model.zero_grad()

        took = milliseconds(train, rounds)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{name}: {took:.0f} ms a step, {peak:.0f} MiB resident at most so far")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--step", action="store_true", help="also steps of a training")
    options = parser.parse_args()
    print(harness.machine())
    operator(options.rounds)
    if options.step:
        step(options.rounds)


if __name__ == "__main__":
    main()
