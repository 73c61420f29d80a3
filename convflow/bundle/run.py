"""A run folder: its checkpoints by step, and what else lies among them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from convflow import distributed
from convflow.types import InputError

log = logging.getLogger("convflow")


def folder_of(run: Path, step: int) -> Path:
    """Return where the checkpoint of `step` lies in a run folder."""
    return run / "checkpoints" / f"step_{step:09d}"


def list_steps(run: Path) -> list[int]:
    """Return the steps of all complete checkpoints in a run folder, oldest first."""
    found = (p for p in (run / "checkpoints").glob("step_*") if (p / "state.json").is_file())
    steps = {path: step_of(path) for path in found}
    return sorted(n for path, n in steps.items() if n is not None and path == folder_of(run, n))


def step_of(folder: Path) -> int | None:
    """Return the step in the name of a checkpoint, None where the name is another."""
    found = re.fullmatch(r"step_(\d+)", folder.name)
    return int(found[1]) if found else None


def list_remains(run: Path) -> list[Path]:
    """Return the folders among a run's checkpoints that are neither complete ones nor drafts."""
    complete = {folder_of(run, step) for step in list_steps(run)}
    found = (run / "checkpoints").glob("[!.]*")
    return sorted(path for path in found if path.is_dir() and path not in complete)


def say_passed_over(run: Path) -> None:
    """Say which folders among a run's checkpoints are none, for want of a state or of a name."""
    for path in list_remains(run) if distributed.rank() == 0 else ():
        if not (path / "state.json").is_file():
            log.warning(f"{path} has no state.json and is passed over")
        elif ".aside" not in path.name:
            log.warning(f"{path} has no name of a checkpoint (step_000000010) and is passed over")


def show_remains(remains: list[Path]) -> str:
    """Return what is left of checkpoints, for a message."""
    whole = "with" if (remains[0] / "state.json").is_file() else "without"
    more = f" and {len(remains) - 1} more" if len(remains) > 1 else ""
    return f"{remains[0].name} {whole} state.json{more}"


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Add to any error about the checkpoint in `folder` how training can go on without it."""
    try:
        yield
    except InputError as error:
        reason, others = str(error).partition("; ")[0], has_others(folder)
        end = "go on from the checkpoint before it" if others else "begin anew; there is no other"
        raise InputError(f"{reason}; move {folder} elsewhere to {end}") from error


def has_others(folder: Path) -> bool:
    """Return whether there are complete checkpoints beside this one."""
    run = folder.parent.parent
    return any(folder_of(run, step).name != folder.name for step in list_steps(run))
