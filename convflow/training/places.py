"""Paths that are stored in a folder and read again, maybe from another working directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from convflow.storage import read_json
from convflow.training.config import TrainConfig
from convflow.training.keys import from_dict
from convflow.types import InputError

NO_PATHS = ("", "digits", "shapes")
"""Data that lie nowhere."""

HUB_DATA = "hf:"

LEVELS = 6
"""Folders above the one where a path is stored in which it is looked up: from the weights of a
checkpoint up to the folder with `runs/NAME`, or with `runs/GROUP/NAME`."""


def find_place(path: str, folder: Path, *, inside: bool = False) -> str:
    """Return where a path stored in `folder` is: from a folder further up, else from here.

    A run in `project/runs/pets` that was started in `project` finds `pets` there from anywhere,
    whatever else has this name in the working directory.

    Args:
        path: absolute, or relative to the working directory of its time; or no path at all, such
            as a Hub id, which comes back as it is.
        folder: in which it is stored.
        inside: whether it may lie in `folder` itself, and is meant so where it does.
    """
    place = Path(os.path.expanduser(path))
    within = [folder.resolve() / place] if inside else []
    found = next(filter(_exists, [*within, *_beside(place, folder), place]), None)
    return path if found is None or _same(place, found) else str(found)


def portable(path: str, folder: Path, stored: str | None = None) -> str:
    """Return a path to store in `folder`: as it is if it is found from there, else absolute.

    Args:
        path: as it is found from the working directory.
        folder: in which it is to be stored.
        stored: what `folder` has in its place already; it stays if it means the same.
    """
    place = Path(os.path.expanduser(path))
    if stored is not None and _same(place, Path(os.path.expanduser(find_place(stored, folder)))):
        return stored
    if place.is_absolute() or not _exists(place):
        return path
    first = next(filter(_exists, _beside(place, folder)), None)
    return path if first and _same(place, first) else str(place.resolve())


def find_paths(config: TrainConfig, run: Path) -> TrainConfig:
    """Return the settings of a run with its paths where they are now."""
    return _changed(config, lambda path, _: find_place(path, run))


def store_paths(config: TrainConfig, run: Path) -> TrainConfig:
    """Return settings with the paths to store in a run, which keeps its own where they agree."""
    stored = {}
    with suppress(InputError):
        stored = _paths(from_dict(read_json(run / "config.json")))
    return _changed(config, lambda path, key: portable(path, run, stored.get(key)))


def resolve_paths(config: TrainConfig, run: Path) -> TrainConfig:
    """Return the settings of a run with absolute paths, for comparison."""

    def absolute(path: str, _: str) -> str:
        found = Path(os.path.expanduser(find_place(path, run)))
        return str(found.resolve()) if _exists(found) else path

    return _changed(config, absolute)


def describe_paths(config: TrainConfig, found: TrainConfig) -> list[str]:
    """Return a line for each path of settings that was found somewhere else than it says."""
    places = _paths(found)
    return [f"{path} is {places[k]}" for k, path in _paths(config).items() if path != places[k]]


def _paths(config: TrainConfig) -> dict[str, str]:
    """Return the paths in settings by their keys."""
    data = config.data.path.removeprefix(HUB_DATA)
    found = {} if config.data.path in NO_PATHS else {"data.path": data}
    if config.codec.kind == "latent":
        found["codec.autoencoder"] = config.codec.autoencoder
    return found | ({"init": config.init} if config.init else {})


def _changed(config: TrainConfig, change: Callable[[str, str], str]) -> TrainConfig:
    """Return settings with every path in them changed, which is given with its key."""
    paths = {key: change(path, key) for key, path in _paths(config).items()}
    data, autoencoder = config.data.path, config.codec.autoencoder
    if "data.path" in paths:
        data = (HUB_DATA if data.startswith(HUB_DATA) else "") + paths["data.path"]
    return replace(
        config,
        data=replace(config.data, path=data),
        codec=replace(config.codec, autoencoder=paths.get("codec.autoencoder", autoencoder)),
        init=paths.get("init", config.init),
    )


def _beside(place: Path, folder: Path) -> list[Path]:
    """Return a place as seen from the folders above another, but for those on the way to that.

    A run `runs/pets` of the data `pets` does not find itself in `runs`.
    """
    here = folder.resolve()
    found = [Path(os.path.abspath(up / place)) for up in _above(folder)]
    return [at for at in found if not (at.is_relative_to(here) or here.is_relative_to(at))]


def _above(folder: Path) -> list[Path]:
    """Return the folders above one, nearest first, without the root of the file system."""
    return [up for up in folder.resolve().parents if up != up.parent][:LEVELS]


def _same(path: Path, other: Path) -> bool:
    """Return whether two paths lead to one place."""
    return _exists(path) and _exists(other) and os.path.samefile(path, other)


def _exists(path: Path) -> bool:
    """Return whether a path can be reached; `Path.exists` raises where access is denied."""
    return os.path.exists(path)
