"""Paths that are stored in a folder and read again, maybe from another working directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from convflow.training.config import TrainConfig

NO_PATHS = ("", "digits", "shapes")
"""Data that lie nowhere."""

HUB_DATA = "hf:"


def find_place(path: str, folder: Path, *, inside: bool = False) -> str:
    """Return where a path stored in `folder` is: as it stands, or from a folder further up.

    A run in `project/runs/pets` that was started in `project` finds `pets` there from anywhere.

    Args:
        path: absolute, or relative to the working directory of its time; or no path at all, such
            as a Hub id, which comes back as it is.
        folder: in which it is stored.
        inside: whether it may lie in `folder` itself, and is meant so where it does.
    """
    here = folder.resolve()
    first = [here] if inside else []
    for start in [*first, Path(), *here.parents]:
        if _exists(start / os.path.expanduser(path)):
            return path if start == Path() else str(start / path)
    return path


def portable(path: str, folder: Path) -> str:
    """Return a path to store in `folder`: as it is if it is found from there, else absolute."""
    place = Path(os.path.expanduser(path))
    if place.is_absolute() or not _exists(place):
        return path
    first = next((up / path for up in folder.resolve().parents if _exists(up / path)), None)
    return path if first and first.samefile(place) else str(place.resolve())


def find_paths(config: TrainConfig, run: Path) -> TrainConfig:
    """Return the settings of a run with its paths where they are now."""
    return _changed(config, lambda path: find_place(path, run))


def store_paths(config: TrainConfig, run: Path) -> TrainConfig:
    """Return the settings of a run with its paths so that they are found again."""
    return _changed(config, lambda path: portable(path, run))


def resolve_paths(config: TrainConfig, run: Path) -> TrainConfig:
    """Return the settings of a run with absolute paths, for comparison."""

    def absolute(path: str) -> str:
        found = Path(os.path.expanduser(find_place(path, run)))
        return str(found.resolve()) if _exists(found) else path

    return _changed(config, absolute)


def _changed(config: TrainConfig, change: Callable[[str], str]) -> TrainConfig:
    """Return settings with every path in them changed."""
    data = config.data.path
    kind = HUB_DATA if data.startswith(HUB_DATA) else ""
    if data not in NO_PATHS:
        data = kind + change(data.removeprefix(kind))
    latent = config.codec.kind == "latent"
    autoencoder = change(config.codec.autoencoder) if latent else config.codec.autoencoder
    return replace(
        config,
        data=replace(config.data, path=data),
        codec=replace(config.codec, autoencoder=autoencoder),
        init=change(config.init) if config.init else "",
    )


def _exists(path: Path) -> bool:
    """Return whether a path can be reached; `Path.exists` raises where access is denied."""
    return os.path.exists(path)
