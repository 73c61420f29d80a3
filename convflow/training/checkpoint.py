"""Checkpoints: folders that appear complete or not at all, and the newest of them by step.

step_000001200/
  raw/  ema/             each a model folder that `convflow.load_model` and `Pipeline` read
  optimizer.safetensors
  objectives.safetensors only where objectives have parameters: theirs, and the average of these
  state.json             step, images seen, the run's settings, sizes and checksums of the
                         files, and a checksum of these facts

A checksum is there for what only training may change; people edit `pipeline.json`, and `config` in
`state.json`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from convflow import distributed
from convflow.models.backbone import Backbone
from convflow.models.zoo import find_folder, load_model
from convflow.storage import (
    UNFINISHED,
    check_sums,
    checksum,
    explained,
    read_finite,
    read_json,
    write_text,
    writing_folder,
)
from convflow.training.config import DataConfig, PipelineConfig
from convflow.training.keys import read_pipeline, to_dict
from convflow.types import InputError

log = logging.getLogger("convflow")

RAW, EMA = "raw/model.safetensors", "ema/model.safetensors"
OPTIMIZER = "optimizer.safetensors"
OBJECTIVES = "objectives.safetensors"
PARTS = {
    RAW: "the weights",
    EMA: "the average of the weights",
    OPTIMIZER: "the state of the optimizer",
    OBJECTIVES: "the parameters of the objectives",
}
"""What training changes, by the file that holds it."""
DESCRIPTIONS = ("raw/pipeline.json", "ema/pipeline.json")
"""What pipelines are told."""
FILES = (RAW, EMA, OPTIMIZER, "raw/config.json", "ema/config.json")
"""The files of every checkpoint whose checksums are in `state.json`."""


def folder_of(run: Path, step: int) -> Path:
    """Return where the checkpoint of `step` lies in a run folder."""
    return run / "checkpoints" / f"step_{step:09d}"


def list_steps(run: Path) -> list[int]:
    """Return the steps of all complete checkpoints in a run folder, oldest first."""
    found = (p for p in (run / "checkpoints").glob("step_*") if (p / "state.json").is_file())
    steps = {path: _step_of(path) for path in found}
    return sorted(n for path, n in steps.items() if n is not None and path == folder_of(run, n))


def _step_of(folder: Path) -> int | None:
    """Return the step in the name of a checkpoint, None where the name is another."""
    found = re.fullmatch(r"step_(\d+)", folder.name)
    return int(found[1]) if found else None


def remove_old(run: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and drafts that a killed process left."""
    for step in list_steps(run)[:-keep]:
        doomed = folder_of(run, step).with_name(f"{UNFINISHED}old-{step}")
        folder_of(run, step).rename(doomed)
    for draft in (run / "checkpoints").glob(f"{UNFINISHED}*"):
        shutil.rmtree(draft, ignore_errors=True)


def is_complete(folder: Path) -> bool:
    """Return whether all files of a checkpoint are there."""
    return all((folder / name).is_file() for name in (*FILES, *DESCRIPTIONS, "state.json"))


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


def require_no_remains(run: Path) -> None:
    """Raise InputError when a run without a complete checkpoint holds what is left of some."""
    remains = list_remains(run)
    if remains and not list_steps(run):
        raise InputError(
            f"expected complete checkpoints or none in {run}, got {_shown(remains)}; restore its "
            "name and its state.json, choose another --run, or remove the folder "
            f"{run / 'checkpoints'} to begin anew"
        )


def _shown(remains: list[Path]) -> str:
    """Return what is left of checkpoints, for a message."""
    whole = "with" if (remains[0] / "state.json").is_file() else "without"
    more = f" and {len(remains) - 1} more" if len(remains) > 1 else ""
    return f"{remains[0].name} {whole} state.json{more}"


def move_aside(folder: Path) -> None:
    """Rename what lies where a checkpoint is to be written, if anything does, and say so."""
    if not os.path.lexists(folder):
        return
    names = (f"{folder.name}.aside{number}" for number in ("", *range(2, 1000)))
    free = next(path for path in map(folder.with_name, names) if not os.path.lexists(path))
    with explained(folder):
        folder.rename(free)
    log.warning(f"{folder} was no checkpoint of this moment; what lay there is now {free}")


def write(
    folder: Path,
    model: Backbone,
    parts: Mapping[str, Mapping[str, Tensor]],
    known: PipelineConfig,
    state: Mapping[str, Any],
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        folder: where nothing is yet.
        model: whose settings go beside the weights.
        parts: tensors by file, as in `PARTS`.
        known: what pipelines are told.
        state: the content of `state.json` beside the checksums, which are added.

    Raises:
        InputError: the disk is full or not writable.
    """
    with writing_folder(folder) as draft:
        for name in (RAW, EMA):
            (draft / name).parent.mkdir()
            model.save_weights((draft / name).parent, parts[name])
        for name in parts.keys() - {RAW, EMA}:
            safetensors.torch.save_file(dict(parts[name]), draft / name)
        for name in DESCRIPTIONS:
            (draft / name).write_text(_described(known), encoding="utf-8")
        facts = {**state, "files": {name: checksum(draft / name) for name in (*FILES, *parts)}}
        whole = json.dumps({**facts, "sha256": _sum_of(facts)}, indent=2)
        (draft / "state.json").write_text(whole, encoding="utf-8")


def describe(folder: Path, known: PipelineConfig) -> None:
    """Tell pipelines something else in a checkpoint that is there."""
    text = _described(known)
    for path in (folder / name for name in DESCRIPTIONS):
        if path.read_bytes() != text.encode():
            write_text(path, text)


def _described(known: PipelineConfig) -> str:
    return json.dumps(to_dict(known), indent=2)


def find_good(run: Path, before: int | None = None) -> Path | None:
    """Return the newest checkpoint that is complete, undamaged and finite, None if there is none.

    Args:
        run: the run folder.
        before: only checkpoints of earlier steps count.
    """
    for step in reversed(list_steps(run)):
        folder = folder_of(run, step)
        try:
            if before is None or step < before:
                require_whole(folder, read_state(folder))
                for name in PARTS:
                    if name != OBJECTIVES or (folder / name).is_file():
                        read_finite(folder / name)
                return folder
        except InputError:
            log.warning(f"{folder} is damaged")
    return None


def require_whole(folder: Path, state: Mapping[str, Any]) -> None:
    """Raise InputError unless files and state are what they were when they were written.

    Args:
        folder: the checkpoint.
        state: what its `state.json` says; earlier versions stored no checksums, which passes.
    """
    if state.get("sha256") not in (None, _sum_of(state)):
        raise InputError(f"{folder / 'state.json'} is damaged: its SHA-256 is not that it holds")
    check_sums(folder, state, (*FILES, OBJECTIVES))


def _sum_of(state: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what a state says beside the settings, which people may edit."""
    facts = {key: value for key, value in state.items() if key not in ("config", "sha256")}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


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
        if _step_of(folder) not in (None, state["step"]):
            raise InputError(
                f"expected step {_step_of(folder):,} in {folder / 'state.json'}, got "
                f"{state['step']:,}"
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
        reason, others = str(error).partition("; ")[0], _others(folder)
        end = "go on from the checkpoint before it" if others else "begin anew; there is no other"
        raise InputError(f"{reason}; move {folder} elsewhere to {end}") from error


def _others(folder: Path) -> bool:
    """Return whether there are complete checkpoints beside this one."""
    run = folder.parent.parent
    return any(folder_of(run, step).name != folder.name for step in list_steps(run))


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
        if remains := list_remains(folder):
            raise InputError(
                f"expected a complete checkpoint in {folder}, got {_shown(remains)}; restore its "
                f"name and its state.json, or give the model folder {remains[0] / weights}"
            )
        raise InputError(f"{folder} holds no complete checkpoint yet; let the training go on")
    say_passed_over(folder)
    checkpoint = folder_of(folder, steps[-1]) if steps else folder
    found = checkpoint / weights
    if (checkpoint / "state.json").is_file() and not (found / "config.json").is_file():
        with readable(checkpoint):
            raise InputError(f"expected a network in {found}, found no config.json there")
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


def read_trained(
    folder_or_id: str | Path, weights: str, *, verify: bool = True
) -> tuple[Path, PipelineConfig, Backbone]:
    """Return a model folder as `find_weights` does, its description and its network.

    Raises:
        InputError: nothing there, or damaged files; of one among several checkpoints, with how to
            go on without it.
    """
    folder = find_weights(folder_or_id, weights)
    several = (folder.parent / "state.json").is_file() and _others(folder.parent)
    with readable(folder.parent) if several else nullcontext():
        return folder, read_description(folder), load_model(folder, verify=verify)
