"""A model folder: weights with their settings, and `pipeline.json`; found, read and written."""

from __future__ import annotations

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path

from convflow.bundle.averages import is_kept, take_kept
from convflow.bundle.config import PipelineConfig, read_pipeline
from convflow.bundle.paths import find_place, portable
from convflow.bundle.published import is_published, read_published
from convflow.bundle.run import (
    folder_of,
    has_others,
    list_remains,
    list_steps,
    readable,
    say_passed_over,
    show_remains,
)
from convflow.codecs import Codec, LatentCodec
from convflow.models.backbone import Backbone
from convflow.models.stored import PIPELINE_NAME, import_code
from convflow.models.zoo import find_folder, load_model
from convflow.parallel.shards import SHARDS
from convflow.settings.read import to_dict
from convflow.storage import read_json, write_text
from convflow.texts import PretrainedText, TextEncoder
from convflow.types import InputError

DESCRIPTION_FILE = PIPELINE_NAME
"""What a pipeline is told beside the network."""


def find_weights(folder_or_id: str | Path, weights: str, *, code: bool = False) -> Path:
    """Return the model folder meant by a run folder, a checkpoint, a model folder or a Hub id.

    Args:
        folder_or_id: as for `Pipeline.from_pretrained`.
        weights: "ema" or "raw"; only runs and checkpoints hold both. Of another average that a run
            keeps, such as "ema-0.05", the folder of "ema".
        code: whether files of Python are downloaded from the Hub too.

    Raises:
        InputError: nothing there, or a run without a complete checkpoint.
    """
    weights = "ema" if is_kept(weights) else weights
    checkpoint = find_checkpoint(Path(folder_or_id), weights)
    found = checkpoint / weights
    if (checkpoint / "state.json").is_file() and not (found / "config.json").is_file():
        with readable(checkpoint):
            raise InputError(f"expected a network in {found}, found no config.json there")
    if (checkpoint / SHARDS).is_dir() and not (found / "model.safetensors").is_file():
        raise InputError(
            f"expected whole weights in {found}, got a checkpoint in shards; gather them with "
            f"convflow export {folder_or_id}"
        )
    return find_folder(found if found.is_dir() else folder_or_id, code=code)


def find_checkpoint(folder: Path, weights: str = "ema") -> Path:
    """Return the newest checkpoint of a run folder, or another folder as it is.

    Args:
        folder: maybe of a run.
        weights: "ema" or "raw", that are looked for.

    Raises:
        InputError: a run without a complete checkpoint.
    """
    steps = list_steps(folder)
    if (folder / "checkpoints").is_dir() and not steps:
        if remains := list_remains(folder):
            raise InputError(
                f"expected a complete checkpoint in {folder}, got {show_remains(remains)}; restore "
                f"its name and its state.json, or give the model folder {remains[0] / weights}"
            )
        raise InputError(f"{folder} holds no complete checkpoint yet; let the training go on")
    say_passed_over(folder)
    return folder_of(folder, steps[-1]) if steps else folder


def read_description(folder: Path) -> PipelineConfig:
    """Return what the `pipeline.json` of a model folder says, or raise InputError."""
    path = folder / DESCRIPTION_FILE
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
    folder_or_id: str | Path,
    weights: str,
    *,
    verify: bool = True,
    trust_remote_code: bool = False,
) -> tuple[Path, PipelineConfig, Backbone]:
    """Return a model folder as `find_weights` does, its description and its network.

    Published weights are read as `read_published` does. With `trust_remote_code` the files of the
    folder are imported that its settings name, which runs their code.

    Raises:
        InputError: nothing there, or damaged files; of one among several checkpoints, with how to
            go on without it.
    """
    if is_published(folder_or_id):
        if weights != "ema":
            raise InputError(
                f"expected averaged weights of a published checkpoint, got {weights}; convflow "
                "import --part NAME takes others"
            )
        return read_published(folder_or_id)
    folder = find_weights(folder_or_id, weights, code=trust_remote_code)
    if trust_remote_code and (folder / DESCRIPTION_FILE).is_file():
        import_code(folder, read_json(folder / DESCRIPTION_FILE))
    several = (folder.parent / "state.json").is_file() and has_others(folder.parent)
    with readable(folder.parent) if several else nullcontext():
        config = read_description(folder)
        model = load_model(folder, verify=verify, trust_remote_code=trust_remote_code)
    if is_kept(weights):
        take_kept(model, folder.parent, weights)
    return folder, config, model


def describe_codec(codec: Codec, folder: Path, known: str | None = None) -> Codec:
    """Return a codec as a model folder stores it, its autoencoder found from there.

    Args:
        codec: its autoencoder is where the working directory finds it.
        folder: in which they are to be stored.
        known: what the folder has as the autoencoder; it stays if it means the same.
    """
    if not isinstance(codec, LatentCodec):
        return codec
    return dataclasses.replace(codec, autoencoder=portable(codec.autoencoder, folder, known))


def describe_text(text: TextEncoder, folder: Path, known: str | None = None) -> TextEncoder:
    """Return a text encoder as a model folder stores it, a frozen one found from there.

    Args:
        text: its encoder is where the working directory finds it.
        folder: in which it is to be stored.
        known: what the folder has as the encoder; it stays if it means the same.
    """
    if not isinstance(text, PretrainedText):
        return text
    return dataclasses.replace(text, encoder=portable(text.encoder, folder, known))


def find_text(text: TextEncoder, folder: Path) -> TextEncoder:
    """Return a text encoder that a model folder has stored, a frozen one where it is now."""
    if not isinstance(text, PretrainedText):
        return text
    return dataclasses.replace(text, encoder=find_place(text.encoder, folder, inside=True))


def write_description(folder: Path, config: PipelineConfig) -> None:
    """Write what pipelines are told beside a network, unless it is there."""
    path, text = folder / DESCRIPTION_FILE, json.dumps(to_dict(config), indent=2)
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)
