"""Tables of the repository: `convflow.bench.harness`, but only of files that a revision holds.

BENCH_OUT names another folder for the tables; BENCH_REVISION names the revision where git is
missing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from convflow.bench import harness, table
from convflow.bench.harness import BenchRow, Call, Case, peak_mib

__all__ = [
    "DIRTY", "RESULTS", "BenchRow", "Call", "Case", "machine", "measure", "peak_mib", "revision",
    "write", "write_table",
]  # fmt: skip

RESULTS = Path(os.environ.get("BENCH_OUT") or Path(__file__).parent / "results").absolute()
DIRTY = "--dirty"
"""Given to a benchmark, it allows numbers from files that no revision holds."""


def measure(case: Case, rounds: int = 11) -> list[BenchRow]:
    """Rows for every shape, mode and rival, see `convflow.bench.harness.measure`."""
    machine()  # refuses now rather than after minutes
    return harness.measure(case, rounds)


def machine() -> dict[str, str]:
    """What the numbers depend on: processor, threads, versions, revision and day.

    Raises:
        SystemExit: tracked files differ from the revision, and `--dirty` was not given.
    """
    return harness.machine() | {"revision": revision(Path(__file__).parents[1], DIRTY in sys.argv)}


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
        try:
            return subprocess.run(call, capture_output=True, text=True, check=False).stdout
        except OSError:  # there is no git
            return ""

    tables = ":(exclude)benchmarks/results"
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", tables).splitlines()
    if changes and not dirty:
        raise SystemExit(
            f"expected a clean git tree, got changes in {changes[0][3:]}"
            f"{f' and {len(changes) - 1} more' if len(changes) > 1 else ''}: nobody could measure "
            f"these files again; commit them, measure in a clean clone, or add {DIRTY}"
        )
    name = git("describe", "--always").strip() or os.environ.get("BENCH_REVISION") or "unknown"
    return f"{name}-dirty" if changes else name


def write(path: Path, rows: Sequence[BenchRow], **more: str) -> None:
    """Replace the table at `path` by these rows, each with the machine and `more` columns."""
    write_table(path, [table.cells(vars(row)) for row in rows], **more)


def write_table(path: Path, rows: Sequence[Mapping[str, object]], **more: object) -> None:
    """Replace the table at `path`: a line for each row, its `more` columns and the machine.

    What `more` says of the machine, such as other threads, counts.
    """
    table.write_csv(path, rows, {**more, **machine(), **more})
