"""Checkpoints: folders that appear complete or not at all, and the newest of them by step.

    step_000001200/
      raw/  ema/             each a model folder that `convflow.load_model` and `Pipeline` read
      optimizer.safetensors
      state.json             step, images seen, the run's settings
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from convflow.types import InputError

UNFINISHED = ".writing-"


@contextmanager
def writing_folder(final: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it becomes `final` in one move when the block ends well.

    On any error nothing is left behind and an existing `final` is untouched.

    Raises:
        InputError: the disk is full or not writable.
    """
    draft = final.with_name(f"{UNFINISHED}{final.name}")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        yield draft
        for path in [*draft.rglob("*"), draft]:
            _flush(path)
        if final.exists():
            shutil.rmtree(final)
        draft.rename(final)
        _flush(final.parent)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(
            f"could not write {final}: {error}; nothing else was changed, free some space or "
            "choose another folder"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole file or leave the old one, never half of it."""
    draft = path.with_name(f"{UNFINISHED}{path.name}")
    try:
        draft.write_text(text, encoding="utf-8")
        _flush(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


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
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if {"step", "images_seen", "config"} <= state.keys():
            return state
        reason = "step, images_seen or config is missing"
    except (OSError, ValueError, AttributeError) as error:
        reason = str(error)
    raise InputError(
        f"{folder / 'state.json'} is damaged ({reason}); move {folder} away to go on from the "
        "checkpoint before it"
    )


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
