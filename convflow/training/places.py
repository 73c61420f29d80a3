"""The paths among the settings of a run: stored in its folder, and found from anywhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from convflow.bundle.paths import exists, find_place, portable
from convflow.codecs import LatentCodec
from convflow.data.sources import EMBEDDED
from convflow.settings.words import value_at
from convflow.storage import read_json
from convflow.texts import PretrainedText
from convflow.training.config import TrainConfig
from convflow.training.keys import from_dict
from convflow.types import InputError

NO_PATHS = ("", *EMBEDDED)
"""Data that lie nowhere."""

DATA_KEYS = ("data.path", "monitor.score.reference")
"""Settings that name images."""

HUB_DATA = "hf:"


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
        return str(found.resolve()) if exists(found) else path

    return _changed(config, absolute)


def describe_paths(config: TrainConfig, found: TrainConfig) -> list[str]:
    """Return a line for each path of settings that was found somewhere else than it says."""
    places = _paths(found)
    return [f"{path} is {places[k]}" for k, path in _paths(config).items() if path != places[k]]


def _paths(config: TrainConfig) -> dict[str, str]:
    """Return the paths in settings by their keys."""
    data = {key: value_at(config, key) for key in DATA_KEYS}
    found = {key: path.removeprefix(HUB_DATA) for key, path in data.items() if path not in NO_PATHS}
    if isinstance(config.codec, LatentCodec):
        found["codec.autoencoder"] = config.codec.autoencoder
    if isinstance(config.text, PretrainedText):
        found["text.encoder"] = config.text.encoder
    if config.monitor.prompts:
        found["monitor.prompts"] = config.monitor.prompts
    return found | ({"init": config.init} if config.init else {})


def _changed(config: TrainConfig, change: Callable[[str, str], str]) -> TrainConfig:
    """Return settings with every path in them changed, which is given with its key."""
    paths = {key: change(path, key) for key, path in _paths(config).items()}
    for key in paths.keys() & DATA_KEYS:
        paths[key] = HUB_DATA * value_at(config, key).startswith(HUB_DATA) + paths[key]
    codec, monitor, text = config.codec, config.monitor, config.text
    if isinstance(text, PretrainedText):
        text = replace(text, encoder=paths["text.encoder"])
    prompts = paths.get("monitor.prompts", monitor.prompts)
    if isinstance(codec, LatentCodec):
        codec = replace(codec, autoencoder=paths["codec.autoencoder"])
    reference = paths.get("monitor.score.reference", monitor.score.reference)
    return replace(
        config,
        data=replace(config.data, path=paths.get("data.path", config.data.path)),
        codec=codec,
        text=text,
        monitor=replace(
            monitor, prompts=prompts, score=replace(monitor.score, reference=reference)
        ),
        init=paths.get("init", config.init),
    )
