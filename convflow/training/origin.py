"""Where the weights of a new run come from: those of a trained network, on one scale or several."""

from __future__ import annotations

from dataclasses import replace

import torch

from convflow.models.backbone import Backbone
from convflow.models.pyramid import Pyramid
from convflow.models.zoo import load_model, load_strictly
from convflow.storage import read_json
from convflow.training.checkpoint import find_weights
from convflow.training.config import TrainConfig
from convflow.training.keys import flatten, read_pipeline
from convflow.types import InputError

MEANING = ("kind", "schedule", "prediction", "variance")
"""What of a process says what a network is asked and answers."""


def read_origin(config: TrainConfig) -> Backbone:
    """Return the trained network that `config.init` names, with averaged weights.

    Raises:
        InputError: nothing there, damaged files, or a network trained by another process.
    """
    try:
        folder = find_weights(config.init, "ema")
        with torch.random.fork_rng(devices=[]):  # a new network draws its first weights
            model = load_model(folder, verify=config.checkpoint.verify)
        described = folder / "pipeline.json"
        known = read_pipeline(read_json(described)).process if described.is_file() else None
    except InputError as error:
        raise InputError(f"--init: {error}") from error
    for key in MEANING if known else ():
        ours, theirs = getattr(config.process, key), getattr(known, key)
        if ours != theirs and (key, ours, theirs) != ("kind", "dfm", "flow"):
            raise InputError(
                f"--init: expected weights trained with the process {key} {ours}, got "
                f"{config.init} with {theirs}; give others, or --process.{key} {theirs}"
            )
    return model


def fit_settings(config: TrainConfig, trained: Backbone) -> TrainConfig:
    """Return settings in which the coarsest scale enters as it does in the trained network.

    On one scale that is the picture with its cells repeated. Nothing changes where the settings
    say it themselves, and without scales.
    """
    if config.process.kind != "dfm" or "coarse" in config.model:
        return config
    coarse = trained.settings["coarse"] if isinstance(trained, Pyramid) else "upsample"
    return replace(config, model=config.model | {"coarse": coarse})


def begin_from(model: Backbone, trained: Backbone, origin: str) -> None:
    """Copy the weights of a trained network into a new one, which then predicts what that did.

    Args:
        model: the new network. A pyramid may begin from a network like the one inside it, see
            `Pyramid.begin_from`.
        trained: with the same settings.
        origin: what to call it in a message.

    Raises:
        InputError: networks, classes or channels that differ; the message names what does.
    """
    if isinstance(trained, Pyramid) and not isinstance(model, Pyramid):
        raise InputError(
            f"--init: expected a network of one scale, got {origin}, a pyramid; add --process dfm"
        )
    if isinstance(model, Pyramid) and not isinstance(trained, Pyramid):
        _check_same(model.backbone, trained, origin)
        model.begin_from(trained)
    else:
        _check_same(model, trained, origin)
        load_strictly(model, trained.state_dict(), origin)


def _check_same(model: Backbone, trained: Backbone, origin: str) -> None:
    """Raise InputError naming the settings in which two networks differ."""
    ours, theirs = flatten(model.settings), flatten(trained.settings)
    differing = [
        f"{key} {theirs.get(key)}, here {ours.get(key)}"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    ]
    if differing:
        raise InputError(
            f"--init: expected the network of these settings and data, got {origin} with "
            f"{', '.join(differing)}; change the settings, or give other weights"
        )
