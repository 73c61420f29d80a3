"""Checkpoints: folders that appear complete or not at all, and the newest of them by step.

step_000001200/
  raw/  ema/             each a model folder that `convflow.load_model` and `Pipeline` read
  optimizer.safetensors
  state.json             step, images seen, the run's settings
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from convflow import distributed
from convflow.models.zoo import find_folder
from convflow.storage import UNFINISHED, read_json
from convflow.training.config import DataConfig, PipelineConfig
from convflow.training.keys import read_pipeline
from convflow.types import InputError

log = logging.getLogger("convflow")


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


def compare_stamps(before: str | None, now: str | None, folder: Path, data: DataConfig) -> None:
    """Say that pictures were written anew since a checkpoint was saved, where stamps tell.

    Args:
        before: stamp of the files in the state; None in older ones.
        now: stamp of the files.
        folder: of the checkpoint.
        data: where they are, and what to do.

    Raises:
        InputError: they were, and `data.on_change` is "stop".
    """
    if before is None or now is None or before == now:
        return
    said = f"pictures in {data.path} were written anew, or copied, since {folder} was saved"
    if data.on_change == "stop":
        raise InputError(f"{said}; restore them, or pass --data.on-change warn to go on with these")
    if distributed.rank() == 0:
        log.warning(f"{said}: the run goes on with what is there now")


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


def find_weights(folder_or_id: str | Path, weights: str) -> Path:
    """Return the model folder meant by a run folder, a checkpoint, a model folder or a Hub id.

    Args:
        folder_or_id: as for `Pipeline.from_pretrained`.
        weights: "ema" or "raw"; only runs and checkpoints hold both.

    Raises:
        InputError: nothing there, or a run without a complete checkpoint.
    """
    folder = Path(folder_or_id)
    steps = list_steps(folder)
    if (folder / "checkpoints").is_dir() and not steps:
        raise InputError(f"{folder} holds no complete checkpoint yet; let the training go on")
    found = (folder_of(folder, steps[-1]) if steps else folder) / weights
    return find_folder(found if found.is_dir() else folder_or_id)


def read_description(folder: Path) -> PipelineConfig:
    """Return what the `pipeline.json` of a model folder says, or raise InputError."""
    path = folder / "pipeline.json"
    if not path.is_file():
        raise InputError(
            f"{folder} holds a network but no pipeline.json with its size and classes; "
            "load_model reads the network alone, and Pipeline.save_pretrained writes both"
        )
    described = read_json(path)
    try:
        return read_pipeline(described)
    except InputError as error:
        raise InputError(
            f"{path} cannot be used: {error}; use a checkpoint of convflow train"
        ) from error
