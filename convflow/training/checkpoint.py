"""Checkpoints: folders that appear complete or not at all, and the newest of them by step.

step_000001200/
  raw/  ema/             each a model folder that `convflow.load_model` and `Pipeline` read
  optimizer.safetensors
  state.json             step, images seen, the run's settings
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors

from convflow.models.zoo import read_json
from convflow.types import InputError

UNFINISHED = ".writing-"


@contextmanager
def writing_folder(final: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it becomes `final` in one move when the block ends well.

    On any error nothing is left behind and everything that existed is untouched.

    Raises:
        InputError: `final` exists, or the disk is full or not writable.
    """
    draft = final.with_name(f"{UNFINISHED}{final.name}")
    with explained(final):
        if final.exists():
            raise FileExistsError("it exists already")
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            yield draft
            for path in [*draft.rglob("*"), draft]:
                _flush(path)
            draft.rename(final)
            _flush(final.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def writing_file(final: Path) -> Iterator[Path]:
    """Give the name of a file to write; it replaces `final` in one move when the block ends well.

    Raises:
        InputError: the disk is full or not writable; an old `final` is untouched.
    """
    draft = final.with_name(f"{UNFINISHED}{final.name}")
    with explained(final):
        try:
            yield draft
            _flush(draft)
            draft.replace(final)
        finally:
            draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole file or leave the old one, never half of it; the same bytes on Windows."""
    with writing_file(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")


def folder_of(run: Path, step: int) -> Path:
    """Return where the checkpoint of `step` lies in a run folder."""
    return run / "checkpoints" / f"step_{step:09d}"


def list_steps(run: Path) -> list[int]:
    """Return the steps of all complete checkpoints in a run folder, oldest first."""
    names = (p.name for p in (run / "checkpoints").glob("step_*") if (p / "state.json").is_file())
    return sorted(int(m[1]) for name in names if (m := re.fullmatch(r"step_(\d+)", name)))


def remove_old(run: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and drafts that a killed process left."""
    for step in list_steps(run)[:-keep]:
        doomed = folder_of(run, step).with_name(f"{UNFINISHED}old-{step}")
        folder_of(run, step).rename(doomed)
    for draft in (run / "checkpoints").glob(f"{UNFINISHED}*"):
        shutil.rmtree(draft, ignore_errors=True)


def read_state(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's `state.json`, or raise InputError when it is damaged."""
    with readable(folder):
        state = read_json(folder / "state.json")
        numbers = [state.get("step"), state.get("images_seen")]
        if not all(type(n) is int and n >= 0 for n in numbers) or "config" not in state:
            raise InputError(
                f"{folder / 'state.json'} is damaged: expected step, images_seen and config, "
                f"got {state}"
            )
        return state


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Add to any error about the checkpoint in `folder` how training can go on without it."""
    try:
        yield
    except InputError as error:
        reason = str(error).partition("; ")[0]
        raise InputError(
            f"{reason}; move {folder} elsewhere to go on from the checkpoint before it"
        ) from error


@contextmanager
def explained(final: Path) -> Iterator[None]:
    """Turn an error while `final` is written into an InputError that says what to do."""
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"could not write {final}: {reason}; what was there is unchanged, "
            "free some space or choose another place"
        ) from error


def _flush(path: Path) -> None:
    """Wait until the disk holds a file or the names in a folder."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
