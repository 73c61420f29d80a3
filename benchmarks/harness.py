"""Timing rivals against each other in turns, so that a machine's drift hits all of them alike."""

from __future__ import annotations

import csv
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from pathlib import Path
from statistics import median, quantiles

import torch
from torch.profiler import ProfilerActivity, profile

RESULTS = Path(__file__).parent / "results"
DIRTY = "--dirty"
"""Given to a benchmark, it allows numbers from files that no revision holds."""
Call = Callable[[], object]


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
class Row:
    """Times of one rival; `ratio` is the median over rounds of its time over ours."""

    case: str
    shape: str
    mode: str
    rival: str
    median_ms: float
    low_ms: float
    high_ms: float
    ratio: float
    peak_mib: float


def measure(case: Case, rounds: int = 11) -> list[Row]:
    """Rows for every shape, mode and rival; low and high are the first and ninth decile.

    Args:
        case: what to measure.
        rounds: how often every rival has its turn. A turn is one call to warm the caches and
            one that counts.
    """
    machine()  # refuses now rather than after minutes
    rows = []
    for shape in case.shapes:
        for mode in case.modes:
            calls = case.set_up(shape, mode)
            times: dict[str, list[float]] = {name: [] for name in calls}
            for call in calls.values():
                _time(call)
            peaks = {name: peak_mib(call) for name, call in calls.items()}
            for _ in range(rounds):
                for name, call in calls.items():
                    _time(call)
                    times[name].append(_time(call))
            ours = times[next(iter(calls))]
            for name, seconds in times.items():
                low, *_, high = quantiles(seconds, n=10)
                ratio = median(t / o for t, o in zip(seconds, ours, strict=True))
                label = "x".join(map(str, shape))
                spread = (1e3 * median(seconds), 1e3 * low, 1e3 * high)
                rows.append(Row(case.name, label, mode, name, *spread, ratio, peaks[name]))
    return rows


def machine() -> dict[str, str]:
    """What the numbers depend on: processor, threads, versions, revision and day.

    Raises:
        SystemExit: tracked files differ from the revision, and `--dirty` was not given.
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "revision": revision(Path(__file__).parents[1], DIRTY in sys.argv),
        "date": time.strftime("%Y-%m-%d"),
    }


def revision(repository: Path, dirty: bool) -> str:
    """Name the revision that is measured, so that anyone can measure it again.

    Untracked files and the tables themselves do not count as changes.

    Args:
        repository: its root.
        dirty: allow changes, and end the name with "-dirty".

    Raises:
        SystemExit: there are changes, and they are not allowed.
    """

    def git(*words: str) -> str:
        call = ["git", "-C", str(repository), *words]
        return subprocess.run(call, capture_output=True, text=True, check=False).stdout

    tables = ":(exclude)benchmarks/results"
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", tables).splitlines()
    if changes and not dirty:
        raise SystemExit(
            f"expected a clean git tree, got changes in {changes[0][3:]}"
            f"{f' and {len(changes) - 1} more' if len(changes) > 1 else ''}: nobody could measure "
            f"these files again; commit them, measure in a clean clone, or add {DIRTY}"
        )
    name = git("describe", "--always").strip() or "unknown"
    return f"{name}-dirty" if changes else name


def write(path: Path, rows: Sequence[Row], **more: str) -> None:
    """Replace the table at `path` by these rows, each with the machine and `more` columns."""
    cells = [
        {
            name: f"{cell:.4g}" if isinstance(cell, float) else cell
            for name, cell in vars(row).items()
        }
        for row in rows
    ]
    write_table(path, cells, **more)


def write_table(path: Path, rows: Sequence[Mapping[str, object]], **more: object) -> None:
    """Replace the table at `path`: a line for each row, its `more` columns and the machine."""
    notes = {**more, **machine()}
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, [*rows[0], *notes], lineterminator="\n")
        table.writeheader()
        table.writerows({**row, **notes} for row in rows)


def _time(call: Call) -> float:
    _synchronise()
    start = time.perf_counter()
    call()
    _synchronise()
    return time.perf_counter() - start


def peak_mib(call: Call) -> float:
    """The most that tensors held at once during a call, beside those before it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        call()
    events = found.profiler.kineto_results.events() if found.profiler else []
    changes = sorted(
        ((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"),
        key=itemgetter(0),
    )
    return max(accumulate((size for _, size in changes), initial=0)) / 2**20


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
