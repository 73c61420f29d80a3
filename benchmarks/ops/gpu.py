"""What benchmarks of operators on a GPU share: options, calls, the limit of a copy, and tables."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import harness
from convflow.ops.deform.op import active_backend

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
MODES = ["forward", "forward+backward"]
REPEATS = 10 if GPU else 1


def parse(description: str | None, rivals: str = "") -> argparse.Namespace:
    """Options of the command; ends it where there is nothing to measure or no revision.

    Args:
        description: of the command.
        rivals: what its option `--rivals` does; none where it has no such option.
    """
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    add("--rounds", type=int, default=11, help="how often every rival has its turn")
    quick = "the first shape, two rounds, no table; without a GPU a dry run of a tiny shape"
    add("--quick", action="store_true", help=quick)
    if rivals:
        add("--rivals", action="store_true", help=rivals)
    add(harness.DIRTY, action="store_true", help="allow numbers that no revision can repeat")
    options = parser.parse_args()
    if not (GPU or options.quick) or active_backend("cuda") != "triton":
        raise SystemExit("expected a GPU and Triton, found none; see benchmarks/ops/compiled.py")
    harness.machine()  # refuses now rather than after minutes
    torch.manual_seed(0)  # every run draws the same
    if options.quick:
        options.rounds = 2
    return options


def both(function: Callable[..., Tensor], leaves: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    """Output and gradients."""
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def timed(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor, mode: str
) -> harness.Call:
    """A call of one mode, with leaves of its own."""
    leaves = [tensor.detach().requires_grad_(mode != MODES[0]) for tensor in inputs]
    return partial(function, *leaves) if mode == MODES[0] else partial(both, function, leaves, grad)


def beside_graphs(calls: Mapping[str, harness.Call]) -> dict[str, harness.Call]:
    """Every call several times over, and after all of these the same calls from graphs.

    Calls take as long as Python and launches do, where these take longer than the kernels. A
    replayed graph takes as long as the kernels.
    """
    found = {name: repeat(call) for name, call in calls.items()}
    for name, call in calls.items() if GPU else ():
        try:
            found[f"{name}, graph"] = replayed(call)
        except Exception as error:  # a rival may not be recordable
            print(f"{name} is not replayed from a graph: {type(error).__name__}: {error}")
    return found


def replayed(call: harness.Call) -> harness.Call:
    """A replay of as many calls as `repeat` makes, without Python and with one launch."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        repeat(call)()
    return graph.replay


def repeat(call: harness.Call) -> harness.Call:
    """The call, several times over, so that what it waits for counts once."""

    def calls() -> None:
        for _ in range(REPEATS):
            call()

    return calls


def copy(num_bytes: int) -> harness.Call:
    """A call that reads and writes as many bytes together, as fast as the memory can."""
    block = torch.zeros(num_bytes // 2, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(block)
    return lambda: target.copy_(block)


def run(cases: Iterable[harness.Case], rounds: int, note: str, path: Path | None) -> None:
    """Measure cases of repeated calls and print the times of one; `path` grows with each case."""
    print(note, "\n")
    times, rows = ("median_ms", "low_ms", "high_ms"), list[harness.BenchRow]()
    for case in cases:
        found = [
            replace(row, **{time: getattr(row, time) / REPEATS for time in times})
            for row in harness.measure(case, rounds)
        ]
        for row in found:
            share = f"  share {row.ratio:.2f}" if "limit" in row.rival else ""
            print(
                f"{row.case:24}{row.shape:17}{row.mode:18}{row.rival:22}"
                f"{1e3 * row.median_ms:9.1f} us{row.ratio:8.2f}{share}"
            )
        rows += found
        if path is not None:
            harness.write(path, rows)  # a run that is cut off keeps what it has
    if path is not None:
        print(f"\n{harness.machine()}\nwritten to {path}")
