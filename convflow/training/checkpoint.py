"""Checkpoints: folders that appear complete or not at all, and the newest of them by step.

step_000001200/
  raw/  ema/             each a model folder that `convflow.load_model` and `Pipeline` read, or the
                         folder of an adapter, see `convflow.models.adapter`
  optimizer.safetensors
  objectives.safetensors only where objectives or augmentation have parameters: theirs, and the
                         average of those that are trained
  averages.safetensors   only where a run keeps more averages than one: those of the network
  shards/                in place of the safetensors files where processes share the weights:
                         their shards, in a folder for each
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
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convflow import distributed
from convflow.bundle.averages import AVERAGES_FILE
from convflow.bundle.config import PipelineConfig
from convflow.bundle.folder import DESCRIPTION_FILE, write_description
from convflow.bundle.run import (
    folder_of,
    list_remains,
    list_steps,
    readable,
    show_remains,
    step_of,
)
from convflow.models.adapter import (
    ADAPTER_FILE,
    ADAPTER_SETTINGS,
    has_adapter,
    write_adapter_settings,
)
from convflow.models.backbone import Backbone
from convflow.parallel.shards import LAYOUT, SHARDS
from convflow.storage import (
    UNFINISHED,
    begin_folder,
    check_sums,
    checksum,
    draft_of,
    end_folder,
    explained,
    read_finite,
    read_json,
)
from convflow.training.config import DataConfig
from convflow.types import InputError
from convflow.units import bytes_of

log = logging.getLogger("convflow")

RAW_FILE, EMA_FILE = "raw/model.safetensors", "ema/model.safetensors"
RAW_ADAPTER, EMA_ADAPTER = f"raw/{ADAPTER_FILE}", f"ema/{ADAPTER_FILE}"
OPTIMIZER_FILE = "optimizer.safetensors"
OBJECTIVES_FILE = "objectives.safetensors"
PARTS = {
    RAW_FILE: "the weights",
    EMA_FILE: "the average of the weights",
    RAW_ADAPTER: "the adapter",
    EMA_ADAPTER: "the average of the adapter",
    OPTIMIZER_FILE: "the state of the optimizer",
    OBJECTIVES_FILE: "the parameters of objectives and augmentation",
    AVERAGES_FILE: "the further averages of the weights",
}
"""What training changes, by the file that holds it."""
FILES = (RAW_FILE, EMA_FILE, OPTIMIZER_FILE, "raw/config.json", "ema/config.json")
"""The files of a checkpoint of earlier versions whose checksums are in `state.json`."""
SETTINGS = [
    f"{kind}/{name}" for kind in ("raw", "ema") for name in ("config.json", ADAPTER_SETTINGS)
]
"""Files of settings with a checksum, where they are there."""


def remove_old(run: Path, keep: int, keep_every: int = 0) -> None:
    """Remove old checkpoints, and drafts that a killed process left.

    Args:
        run: the run folder.
        keep: the newest that stay.
        keep_every: the first at or after each multiple of so many steps stays too; 0 for none.
    """
    steps, last = list_steps(run), 0
    old = []
    for step in steps[:-keep]:
        if keep_every and step // keep_every > last:
            last = step // keep_every
        else:
            old.append(step)
    for step in old:
        doomed = folder_of(run, step).with_name(f"{UNFINISHED}old-{step}")
        folder_of(run, step).rename(doomed)
    for draft in (run / "checkpoints").glob(f"{UNFINISHED}*"):
        shutil.rmtree(draft, ignore_errors=True)


def is_complete(folder: Path) -> bool:
    """Return whether all files of a checkpoint are there."""
    described = [f"{Path(name).parent}/{DESCRIPTION_FILE}" for name in (RAW_FILE, EMA_FILE)]
    try:
        return all(
            (folder / name).is_file() for name in (*described, *files_of(read_state(folder)))
        )
    except InputError:
        return False


def files_of(state: Mapping[str, Any]) -> list[str]:
    """Return the files that a state vouches for; earlier versions stored no list."""
    files = state.get("files")
    return [*files] if isinstance(files, dict) else [*FILES]


def require_no_remains(run: Path) -> None:
    """Raise InputError when a run without a complete checkpoint holds what is left of some."""
    remains = list_remains(run)
    if remains and not list_steps(run):
        raise InputError(
            f"expected complete checkpoints or none in {run}, got {show_remains(remains)}; restore "
            "its name and its state.json, choose another --run, or remove the folder "
            f"{run / 'checkpoints'} to begin anew"
        )


def move_aside(folder: Path) -> None:
    """Rename what lies where a checkpoint is to be written, if anything does, and say so."""
    if not os.path.lexists(folder):
        return
    names = (f"{folder.name}.aside{number}" for number in ("", *range(2, 1000)))
    free = next(path for path in map(folder.with_name, names) if not os.path.lexists(path))
    with explained(folder):
        folder.rename(free)
    log.warning(f"{folder} was no checkpoint of this moment; what lay there is now {free}")


def begin(folder: Path, model: Backbone, config: PipelineConfig, base: str) -> None:
    """Make a draft of a checkpoint, which `complete` gives its name.

    Args:
        folder: its name in the end, where nothing is yet.
        model: whose settings go beside the weights.
        config: what pipelines are told.
        base: where the network of an adapter lies, as a path from the weights.

    Raises:
        InputError: the disk is full or not writable.
    """
    draft = begin_folder(folder)
    try:
        with explained(folder):
            for name in (RAW_FILE, EMA_FILE):
                (draft / name).parent.mkdir()
                if has_adapter(model):
                    write_adapter_settings(model, (draft / name).parent, base)
                else:
                    model.save_settings((draft / name).parent)
                write_description((draft / name).parent, config)
    except InputError:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def complete(folder: Path, state: Mapping[str, Any], sums: Mapping[str, Any]) -> None:
    """Turn a draft into a checkpoint, in one move.

    Args:
        folder: as given to `begin`.
        state: the content of `state.json` beside the checksums, which are added.
        sums: the checksums of the files that have been put into the draft, by name.

    Raises:
        InputError: the disk is full or not writable.
    """
    draft = draft_of(folder)
    with explained(folder):
        settings = {name: checksum(draft / name) for name in SETTINGS if (draft / name).is_file()}
        facts = {**state, "files": {**sums, **settings}}
        whole = json.dumps({**facts, "sha256": sum_of(facts)}, indent=2)
        (draft / "state.json").write_text(whole, encoding="utf-8")
    end_folder(draft, folder)


def update_description(folder: Path, config: PipelineConfig) -> None:
    """Tell pipelines something else in a checkpoint that is there."""
    for name in (RAW_FILE, EMA_FILE):
        write_description((folder / name).parent, config)


def describe_disk(
    numbers: int, keep: int, kept: int, folder: Path, keep_every: int = 0
) -> tuple[str, bool]:
    """Return a line about the disk that checkpoints will take, and whether it is free.

    One more than are kept is there while the newest is written.

    Args:
        numbers: of 32 bits in a checkpoint: weights, their averages and two moments.
        keep: checkpoints that are kept.
        kept: checkpoints that are there already.
        folder: on the disk; it exists.
        keep_every: as in `remove_old`.
    """
    each, free = 4 * numbers, shutil.disk_usage(folder).free
    many = f"{keep} are kept" if keep > 1 else "1 is kept"
    also = f", and 1 for each {keep_every:,} steps" if keep_every else ""
    line = (
        f"checkpoints take about {bytes_of(each)} each, at most {many} and 1 is being written: "
        f"{bytes_of(each * (keep + 1))}{also}; {bytes_of(free)} are free here"
    )
    if fits := each * max(1, keep + 1 - kept) <= free:
        return line, fits
    return f"{line}, too little; free some, lower --checkpoint.keep or choose another --run", fits


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
                require_whole(folder, state := read_state(folder))
                for name in files_of(state):
                    if name.endswith(".safetensors"):
                        read_finite(folder / name)
                return folder
        except InputError:
            log.warning(f"{folder} is damaged")
    return None


def require_whole(folder: Path, state: Mapping[str, Any], hashes: bool = True) -> None:
    """Raise InputError unless files and state are what they were when they were written.

    Each process reads its share of the shards.

    Args:
        folder: the checkpoint.
        state: what its `state.json` says; earlier versions stored no checksums, which passes.
        hashes: whether to read the files, rather than to see that the shards are there.
    """
    if hashes and state.get("sha256") not in (None, sum_of(state)):
        raise InputError(f"{folder / 'state.json'} is damaged: its SHA-256 is not that it holds")
    if (layout := state.get("shards", LAYOUT)) != LAYOUT:
        raise InputError(
            f"expected shards in layout {LAYOUT}, got {layout} in {folder}, which convflow "
            f"{state.get('version')} wrote; install that version"
        )
    shards = [name for name in files_of(state) if name.startswith(f"{SHARDS}/")]
    for name in shards:
        if not (folder / name).is_file():
            raise InputError(f"expected the shard {folder / name}, found none; copy it again")
    if hashes:
        mine = shards[distributed.rank() :: distributed.world_size()]
        check_sums(folder, state, [n for n in files_of(state) if n not in shards] + mine)


def sum_of(state: Mapping[str, Any]) -> str:
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
        if step_of(folder) not in (None, state["step"]):
            raise InputError(
                f"expected step {step_of(folder):,} in {folder / 'state.json'}, got "
                f"{state['step']:,}"
            )
        return state


def compare_stamps(before: str | None, now: str | None, folder: Path, data: DataConfig) -> None:
    """Say that images were written anew since a checkpoint was saved, where stamps tell.

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
    said = f"images in {data.path} were written anew, or copied, since {folder} was saved"
    if data.on_change == "stop":
        raise InputError(f"{said}; restore them, or pass --data.on-change warn to go on with these")
    if distributed.rank() == 0:
        log.warning(f"{said}: the run goes on with what is there now")
