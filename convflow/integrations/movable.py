"""A model as files that can move to another machine: no path in them leads out of their folder."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from convflow.bundle.config import PipelineConfig
from convflow.bundle.folder import write_description
from convflow.codecs import LatentCodec
from convflow.models.stored import SHARD_BYTES, own_modules, write_stored
from convflow.pipeline import Pipeline
from convflow.settings.read import to_dict
from convflow.storage import write_text, writing_folder
from convflow.texts import PretrainedText, TextEncoder
from convflow.types import InputError

LEADS_OUT = re.compile(r"\s*(file:|[/\\~]|[A-Za-z]:[/\\]|(.*[/\\])?\.\.[/\\])")
"""The beginning of a path that is absolute, or leads upwards."""


def export_safetensors(pipe: Pipeline, out: Path, most: int = SHARD_BYTES) -> None:
    """Write a new folder with the weights and the settings of a network, and nothing else.

    Args:
        pipe: the model.
        out: the folder, whole or not at all.
        most: bytes of weights in one file.

    Raises:
        InputError: a folder that is there, or a full disk.
    """
    with writing_folder(out) as draft:
        write_network(pipe, draft, most)


def write_bare(pipe: Pipeline, out: Path, *, name: str) -> list[str]:
    """Do what `export_safetensors` does, and return what there is, see `ExportTarget`."""
    export_safetensors(pipe, out)
    return [f"{out}  <- the weights and settings of {name}"]


def write_network(pipe: Pipeline, folder: Path, most: int = SHARD_BYTES) -> None:
    """Write `config.json` and `model.safetensors`, in shards where it is large, into a folder."""
    pipe.model.save_settings(folder)
    write_stored(folder, pipe.model.state_dict(), most=most)


def copy_autoencoder(pipe: Pipeline, folder: Path, name: str) -> str | None:
    """Return the autoencoder of a model as a folder names it; None for pixels.

    One that is a local folder is copied to `name`, one of the Hub keeps its id.
    """
    if not isinstance(pipe.codec, LatentCodec):
        return None
    place = Path(pipe.codec.autoencoder)
    if not place.is_dir():
        return pipe.codec.autoencoder
    inner = place if (place / "config.json").is_file() else place / "vae"
    (folder / name).mkdir()
    for file in [inner / "config.json", *sorted(inner.glob("*.safetensors*"))]:
        shutil.copyfile(file, folder / name / file.name)
    return name


def write_movable(pipe: Pipeline, folder: Path, autoencoder: str | None) -> None:
    """Write `pipeline.json`, with an autoencoder as `copy_autoencoder` names it.

    Tables of searched solvers and the code of the user's own parts go along.

    Raises:
        InputError: a part whose code is no single file.
    """
    codec = pipe.codec
    if isinstance(codec, LatentCodec) and autoencoder is not None:
        codec = dataclasses.replace(codec, autoencoder=autoencoder)
    config = PipelineConfig(
        size=pipe.size,
        class_names=pipe.class_names,
        sampling=pipe.sampling,
        codec=codec,
        process=pipe.process,
        resolution=pipe.resolution,
        text=_named(pipe.text),
        prompts=pipe.prompts,
    )
    write_description(folder, config)
    if pipe.folder is not None and (tables := pipe.folder / "solvers").is_dir():
        shutil.copytree(tables, folder / "solvers")
    for module in own_modules([pipe.model.settings, to_dict(config)]):
        loaded = sys.modules.get(module)
        place = getattr(loaded, "__file__", None)
        if "." in module or place is None or hasattr(loaded, "__path__"):
            raise InputError(
                f"expected code of yours in one file beside the weights, got the module {module}; "
                "move the class into a module without a package"
            )
        shutil.copyfile(place, folder / f"{module}.py")


def _named(text: TextEncoder) -> TextEncoder:
    """Return a text encoder without the way to its folder; its SHA-256 tells which it is."""
    if isinstance(text, PretrainedText) and Path(text.encoder).is_dir():
        return dataclasses.replace(text, encoder=Path(text.encoder).resolve().name)
    return text


def without_paths(tree: Any) -> Any:
    """Return settings in which paths that lead out are cut to their last name, to be published.

    Several paths may stand in a text with commas between them.
    """
    if isinstance(tree, dict):
        return {name: without_paths(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [without_paths(value) for value in tree]
    if isinstance(tree, str):
        return ",".join(
            _last_name(part) if LEADS_OUT.match(part) else part for part in tree.split(",")
        )
    return tree


def _last_name(path: str) -> str:
    return path.replace("\\", "/").rstrip("/ ").rpartition("/")[2]


def write_json(path: Path, tree: Any) -> None:
    """Write a tree as JSON; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(tree, indent=2) + "\n")
