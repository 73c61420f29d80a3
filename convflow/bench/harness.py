"""Timing rivals against each other in turns, so that a machine's drift hits all of them alike."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from pathlib import Path
from statistics import median, quantiles

import torch
from torch.profiler import ProfilerActivity, profile

from convflow.distributed import choose_device
from convflow.evaluation.card import library

Call = Callable[[], object]
UNSTEADY = 1.5
"""The ninth decile of times over the first from which on they are called unsteady."""
WARM_UP = 0.02
"""Seconds of calls before one that counts: short ones find their numbers in the caches again."""


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        name: as it stands in the table.
        set_up: from a shape and a mode to the rivals by name; the first is ours.
        shapes: what to set up, one after the other.
        modes: such as "forward" and "forward+backward".
    """

    name: str
    set_up: Callable[[tuple[int, ...], str], Mapping[str, Call]]
    shapes: Sequence[tuple[int, ...]]
    modes: Sequence[str]


@dataclass(frozen=True)
class BenchRow:
    """Times of one rival; `ratio` is the median over rounds of its time over ours.

    Low and high are the first and the ninth decile; `peak_mib` is the most that tensors held at
    once during a call, in MiB beside those before it.
    """

    case: str
    shape: str
    mode: str
    rival: str
    median_ms: float
    low_ms: float
    high_ms: float
    ratio: float
    peak_mib: float


def measure(case: Case, rounds: int = 11, device: torch.device | None = None) -> list[BenchRow]:
    """Return a row for every shape, mode and rival.

    Args:
        case: what to measure.
        rounds: how often every rival has its turn. A turn is calls for `WARM_UP` seconds, one at
            least, to warm the caches, and one that counts.
        device: waited for before a clock is read; by default the one that "auto" chooses.
    """
    device = device or choose_device()
    rows = []
    for shape in case.shapes:
        for mode in case.modes:
            calls = case.set_up(shape, mode)
            times: dict[str, list[float]] = {name: [] for name in calls}
            for call in calls.values():
                seconds(call, device)
            peaks = {name: peak_mib(call, device) for name, call in calls.items()}
            for _ in range(rounds):
                for name, call in calls.items():
                    warm = 0.0
                    while warm < WARM_UP:
                        warm += seconds(call, device)
                    times[name].append(seconds(call, device))
            ours = times[next(iter(calls))]
            for name, found in times.items():
                ratio = median(t / o for t, o in zip(found, ours, strict=True))
                label = "x".join(map(str, shape))
                low, high = deciles(found)
                rows.append(
                    BenchRow(
                        case.name,
                        label,
                        mode,
                        name,
                        median_ms=1e3 * median(found),
                        low_ms=1e3 * low,
                        high_ms=1e3 * high,
                        ratio=ratio,
                        peak_mib=peaks[name],
                    )
                )
    return rows


def over_limits(rows: Sequence[BenchRow], limits: Collection[str]) -> list[str]:
    """Return a sentence for each row of a rival that is a limit: how many times it ours takes."""
    return [
        f"{row.case}, {row.shape}, {row.mode}: {1 / row.ratio:.2f} times its {row.rival}"
        for row in rows
        if row.rival in limits
    ]


def unsteady(rows: Sequence[BenchRow]) -> list[str]:
    """Return a sentence if times of one call vary so much that something else was running."""
    worst = max(rows, key=lambda row: row.high_ms / row.low_ms)
    if worst.high_ms < UNSTEADY * worst.low_ms:
        return []
    return [
        f"times of {worst.rival} vary from {worst.low_ms:.4g} to {worst.high_ms:.4g} ms: something "
        "else runs here; stop it, or take more --rounds"
    ]


def deciles(numbers: Sequence[float]) -> tuple[float, float]:
    """Return the first and the ninth decile, which never lie outside the numbers."""
    if len(numbers) == 1:
        return numbers[0], numbers[0]
    low, *_, high = quantiles(numbers, n=10, method="inclusive")
    return low, high


def seconds(call: Call, device: torch.device) -> float:
    """Return how long a call takes until the device has done it."""
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak_mib(call: Call, device: torch.device | None = None) -> float:
    """Return the most MiB that tensors held at once during a call, beside those before it.

    NaN on accelerators other than CUDA's, whose memory torch does not watch.
    """
    device = device or choose_device()
    if device.type != "cpu":
        if not torch.cuda.is_available():
            call()
            return float("nan")
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        call()
    events = found.profiler.kineto_results.events() if found.profiler else []
    changes = sorted(
        ((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"),
        key=itemgetter(0),
    )
    return max(accumulate((size for _, size in changes), initial=0)) / 2**20


def machine(device: torch.device | None = None) -> dict[str, str]:
    """Return what numbers depend on: processor, threads, versions, revision and day.

    The revision is empty where this package came without one, and ends with "-dirty" where the
    package differs from it.
    """
    device = device or choose_device()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    has_gpu = device.type != "cpu" and torch.cuda.is_available()
    ours = library()
    return {
        "cpu": models[0] if models else platform.processor(),
        "gpu": torch.cuda.get_device_name(device) if has_gpu else "",
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "convflow": ours["convflow"] or "",
        "revision": ours["commit"] or "",
        "date": time.strftime("%Y-%m-%d"),
    }
