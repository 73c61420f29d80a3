"""Training from a store of latents: whose autoencoder it is, and whether the settings fit it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from convflow.bundle.paths import find_place
from convflow.codecs import Codec, PixelCodec
from convflow.data.check import Report
from convflow.data.latents import Latents, find_stores
from convflow.data.store import read_index
from convflow.settings.fields import Pixels
from convflow.settings.read import read, show
from convflow.training.config import DataConfig, TrainConfig
from convflow.types import InputError, Size, size_text


def with_codec_of_store(config: TrainConfig, run: Path) -> TrainConfig:
    """Return settings with the codec and the constants of the store of latents they name, if any.

    Args:
        config: the complete settings; one codec of pixels stands for none.
        run: the run folder, from which paths are found.

    Raises:
        InputError: the settings name another autoencoder than the store's.
    """
    begun = (run / "config.json").is_file()  # else paths are seen from here
    stored = find_place(config.data.path, run) if begun else config.data.path
    place = Path(os.path.expanduser(stored))
    stores = find_stores(place) if config.data.path and place.is_dir() else []
    if not stores:
        return config
    theirs: Any = codec_of_store(stores[0])
    if config.codec == PixelCodec():
        return replace(config, codec=theirs)
    ours = getattr(config.codec, "autoencoder", "")
    known = getattr(theirs, "autoencoder", "")
    if _resolved(ours, run) != _resolved(known, run):
        raise InputError(
            f"expected the autoencoder {known or theirs.kind} of the store {config.data.path}, got "
            f"{ours or config.codec.kind}; give --codec.autoencoder {known}, or encode the images "
            "again with the other"
        )
    return replace(config, codec=config.codec.with_constants(theirs))


def codec_of_store(folder: Path) -> Codec:
    """Return the codec of a store, with its constants, its autoencoder found from there."""
    codec: Any = read(read_index(folder).codec, Codec)
    if name := getattr(codec, "autoencoder", ""):
        codec = replace(codec, autoencoder=find_place(name, folder, inside=True))
    return codec


def open_latents(latents: Latents, data: DataConfig) -> tuple[Latents, Report]:
    """Return stored latents to train on, and what is known of their images.

    Raises:
        InputError: settings of images that the store's are not like.
    """
    if data.channels != latents.index.image_channels:
        raise InputError(
            f"--data.channels: expected {latents.index.image_channels} as in the store "
            f"{latents.name}, got {data.channels}; set it"
        )
    if data.crop == "random":
        raise InputError("--data.crop: expected center with a store of latents, got random")
    if data.flip and not latents.index.flipped:
        raise InputError(
            f"--data.flip: expected a store with mirrored images, got {latents.name} without; give "
            "--data.flip false, or encode the images again with --data.flip true"
        )
    latents.size = data.size
    counts = np.bincount(latents.labels, minlength=len(latents.class_names))
    report = Report(
        count=len(latents),
        per_class=dict(zip(latents.class_names, counts.tolist(), strict=False)),
        sides=latents.sides,
        modes={f"{latents.index.records.contents} in {latents.index.records.dtype}": len(latents)},
        total=len(latents),
        kept=True,
    )
    return latents, report


def check_sizes(latents: Latents, sizes: tuple[Size, ...]) -> None:
    """Raise InputError unless a store holds latents of just the sizes to train at."""
    if set(sizes) != set(latents.sizes):
        own = show(latents.sizes) if len(latents.sizes) > 1 else show(latents.sizes[0], Pixels)
        option = "sizes" if len(latents.sizes) > 1 else "size"
        got = ", ".join(map(size_text, sizes))
        raise InputError(
            f"--data.{option}: expected {own} as in the store {latents.name}, got {got}; give "
            f"--data.{option} {own}"
        )


def _resolved(name: str, run: Path) -> str:
    place = Path(os.path.expanduser(find_place(name, run))) if name else Path("/nowhere")
    return str(place.resolve()) if place.is_dir() else name
