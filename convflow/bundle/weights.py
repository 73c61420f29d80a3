"""Weights for use: the model folders of a checkpoint, which may hold its weights in shards."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import torch
from torch import Tensor

from convflow.bundle.averages import PowerSum, open_stored
from convflow.bundle.folder import (
    describe_codec,
    find_checkpoint,
    read_description,
    write_description,
)
from convflow.bundle.paths import find_place
from convflow.codecs import LatentCodec
from convflow.models.adapter import (
    ADAPTER_FILE,
    ADAPTER_SETTINGS,
    check_adapter,
    find_base,
    is_adapter,
)
from convflow.models.zoo import load_model
from convflow.parallel.shards import stream_tensors
from convflow.storage import (
    check_sums,
    read_json,
    whole_tensors,
    write_text,
    writing_file,
    writing_folder,
)
from convflow.types import InputError

WEIGHT_SETS = {"raw": "the weights", "ema": "their average"}
WEIGHTS_FILE = "model.safetensors"


def export_weights(
    run: Path, out: Path | None = None, merge: bool = False, dtype: torch.dtype | None = None
) -> list[Path]:
    """Write the model folders `raw` and `ema` of a checkpoint and return them.

    A few tensors at a time are in memory, and none on a GPU.

    Args:
        run: a run folder, which stands for its newest checkpoint, or a checkpoint.
        out: a new folder; None for the checkpoint itself, where pipelines find them. The base of
            an adapter is copied into it as `base`.
        merge: add adapters to the weights, and write whole networks.
        dtype: of the numbers in the new folder, such as bfloat16, which takes half the room; None
            for that of the checkpoint. A network that is loaded from there is in float32.

    Raises:
        InputError: no checkpoint, nothing to merge or no folder for it, a dtype without a folder
            or for an adapter, a missing or damaged shard, or a full disk.
    """
    checkpoint = find_checkpoint(run)
    if not (checkpoint / "state.json").is_file():
        raise InputError(f"expected a run or a checkpoint of convflow train, got {run}; give one")
    state = read_json(checkpoint / "state.json")
    stored = [name for name in state.get("files", {}) if WEIGHT_SETS.keys() & name.split("/")]
    check_sums(checkpoint, state, stored)
    adapted = is_adapter(checkpoint / "ema")
    if merge and not (adapted and out):
        got = f"{run} without adapters" if out else "no --out"
        raise InputError(
            f"--merge: expected a run of low-rank adapters and --out, got {got}; "
            + ("leave it out" if out else "add --out FOLDER")
        )
    if dtype is not None and (out is None or (adapted and not merge)):
        got, cure = ("adapters", "--merge") if out else ("no folder", "--out FOLDER")
        raise InputError(f"--dtype: expected a new folder of whole weights, got {got}; add {cure}")
    if out is None and adapted:
        return [checkpoint / kind for kind in WEIGHT_SETS]
    if out is None:
        for kind in WEIGHT_SETS:
            if not (path := checkpoint / kind / WEIGHTS_FILE).is_file():
                with writing_file(path) as draft:
                    _write_weights(checkpoint, kind, draft, None)
        return [checkpoint / kind for kind in WEIGHT_SETS]
    with writing_folder(out) as draft:
        for kind in WEIGHT_SETS:
            (draft / kind).mkdir()
            _copy_settings(checkpoint / kind, draft / kind, out / kind)
            if merge:
                model = load_model(checkpoint / kind)
                for name, tensor in model.named_parameters():
                    _cast(tensor, dtype, name)
                model.to(dtype or torch.float32).save_weights(draft / kind)
            elif adapted:
                _copy_adapter(checkpoint / kind, draft / kind)
            else:
                _write_weights(checkpoint, kind, draft / kind / WEIGHTS_FILE, dtype)
        if adapted and not merge:
            shutil.copytree(find_base(checkpoint / "ema"), draft / "base")
    return [out / kind for kind in WEIGHT_SETS]


def export_average(run: Path, out: Path, sigma_rel: float, images: int | None = None) -> PowerSum:
    """Write a model folder with a power-function average of a run, made of its snapshots.

    A few tensors at a time are in memory, and none on a GPU.

    Args:
        run: a run folder with snapshots.
        out: a new folder.
        sigma_rel: relative width of the average.
        images: the moment it is of; None for that of the newest snapshot.

    Returns:
        What was written: its moment, and what is left of the profile.

    Raises:
        InputError: as of `PowerSum`; no checkpoint; or a full disk.
    """
    found, checkpoint = PowerSum(run, sigma_rel, images), find_checkpoint(run)
    usual = open_stored(checkpoint, f"ema/{WEIGHTS_FILE}")

    def read(names: list[str]) -> dict[str, Tensor]:
        sums = found.read([name for name in names if name in found.shapes])
        others = [name for name in names if name not in sums]  # which are not trained
        return sums | (usual.read(others) if others else {})

    with writing_folder(out) as draft:
        _copy_settings(checkpoint / "ema", draft, out)
        stream_tensors(draft / WEIGHTS_FILE, usual.shapes() | found.shapes, read)
    return found


def _copy_settings(source: Path, draft: Path, out: Path) -> None:
    """Copy what stands beside the weights of a checkpoint into a draft of the folder `out`."""
    shutil.copyfile(source / "config.json", draft / "config.json")
    config = read_description(source)
    if isinstance(codec := config.codec, LatentCodec):
        place = find_place(codec.autoencoder, source, inside=True)
        codec = describe_codec(dataclasses.replace(codec, autoencoder=place), out)
    write_description(draft, dataclasses.replace(config, codec=codec))


def _copy_adapter(folder: Path, out: Path) -> None:
    """Copy an adapter into a folder beside which its base will be."""
    check_adapter(folder)
    shutil.copyfile(folder / ADAPTER_FILE, out / ADAPTER_FILE)
    settings = read_json(folder / ADAPTER_SETTINGS) | {"base_model_name_or_path": "../base"}
    write_text(out / ADAPTER_SETTINGS, json.dumps(settings, indent=2, sort_keys=True))


def _write_weights(checkpoint: Path, kind: str, path: Path, dtype: torch.dtype | None) -> None:
    whole = checkpoint / kind / WEIGHTS_FILE
    if dtype is None and whole.is_file():
        shutil.copyfile(whole, path)
        return
    stored = open_stored(checkpoint, f"{kind}/{WEIGHTS_FILE}")
    with whole_tensors(whole):
        shapes = {name: _cast(tensor, dtype) for name, tensor in stored.shapes().items()}
    stream_tensors(
        path, shapes, lambda names: {n: _cast(t, dtype, n) for n, t in stored.read(names).items()}
    )


def _cast(tensor: Tensor, dtype: torch.dtype | None, name: str = "") -> Tensor:
    """Return a tensor of floating point in another dtype; any other as it is.

    One that is named is compared with the range of the dtype; InputError where it goes beyond.
    """
    if dtype is None or not tensor.is_floating_point():
        return tensor
    found = tensor.to(dtype)
    if name and bool((found.isinf() & ~tensor.isinf()).any()):
        raise InputError(
            f"--dtype: expected weights within {torch.finfo(dtype).max:g}, got "
            f"{float(tensor.abs().max()):g} in {name}; use bfloat16"
        )
    return found
