"""The scale of the times that a network is told: of a new run, of one that begins from trained
weights, and of one that goes on."""

from __future__ import annotations

from dataclasses import replace

from convflow.models.zoo import settings_of
from convflow.training.config import TrainConfig
from convflow.training.origin import Origin

UNSCALED = 1.0
"""Where no scale is stored, as in earlier versions: times as they are."""


def choose_time_scale(config: TrainConfig, origin: Origin | None = None) -> TrainConfig:
    """Return the settings of a new run with `time_scale` among those of the network.

    A new network takes the scale of the process. One that begins from trained weights keeps theirs,
    unless they were trained by a process whose time means something else. Nothing changes where
    the settings say it themselves, and for a network without such a setting.

    Args:
        config: the complete settings.
        origin: the trained network to begin from; None for a network of random weights.
    """
    if "time_scale" in config.model or "time_scale" not in settings_of(config.model["name"]):
        return config
    scale = config.process.time_scale
    if origin is not None and origin.same_time:
        scale = origin.model.inner.settings.get("time_scale", UNSCALED)
    return replace(config, model=config.model | {"time_scale": scale})


def keep_time_scale(config: TrainConfig, before: TrainConfig) -> tuple[TrainConfig, TrainConfig]:
    """Return the settings of a run that goes on, and those of its checkpoint, with one scale.

    The run keeps that of the checkpoint where the settings say none.
    """
    if "time_scale" not in settings_of(before.model["name"]):
        return config, before
    known = {"time_scale": before.model.get("time_scale", UNSCALED)}
    before = replace(before, model=before.model | known)
    return replace(config, model=config.model | known | config.model), before
