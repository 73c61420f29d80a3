"""Command-line words such as `--optim.lr 2e-4`, put in place of settings, and the help on them."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Sequence
from typing import Any

from convflow.bundle.config import unfit_settings
from convflow.models.zoo import settings_of
from convflow.objectives.table import OBJECTIVES
from convflow.processes.process import has_scales
from convflow.samplers.ode import SOLVERS
from convflow.settings.fields import Pixels
from convflow.settings.read import flatten, plain, show
from convflow.training.config import TrainConfig
from convflow.training.keys import from_dict, kind_of
from convflow.training.loggers import LOGGERS
from convflow.types import InputError

SHORT = {"data": "data.path", "process": "process.kind", "codec": "codec.kind"}
"""Groups that stand for one of their keys."""

FOR_SCALES = {"solver": "euler", "steps": 40}
"""How a model of scales is sampled where a recipe's own solver cannot."""


def override(config: TrainConfig, arguments: Sequence[str]) -> TrainConfig:
    """Return `config` with command-line words such as `--optim.lr 2e-4` or `--data.size=64x48` set.

    Dashes and underscores are the same. `--data X` is short for `--data.path X`, `--process X` for
    `--process.kind X` and `--codec X` for `--codec.kind X`.

    Raises:
        InputError: an unknown key (the nearest is named), a missing or an unfit value.
    """
    tree = dataclasses.asdict(config)
    # Another network starts from its own settings, not from those of the recipe's network.
    pairs = sorted(_pairs(arguments), key=lambda pair: pair[0] != "model.name")
    if pairs and pairs[0][0] == "model.name" and pairs[0][1] != tree["model"]["name"]:
        tree["model"] = {}
    # So do another process, and another solver where those of the recipe's mean nothing to it.
    words = {key.removeprefix("sampling."): t for key, t in pairs if key.startswith("sampling.")}
    kinds = [text for key, text in pairs if key in ("process", "process.kind")]
    process = [config.process.kind, *kinds][-1]
    if process != config.process.kind:
        tree["process"] = {}
    if has_scales(process) and "solver" not in words and tree["sampling"]["solver"] not in SOLVERS:
        tree["sampling"] |= FOR_SCALES
    for name in unfit_settings(tree["sampling"], words, process):
        del tree["sampling"][name]
    for key, text in pairs:
        _set(tree, key, text)
    counts = tree["sampling"].get("stage_steps", ()) if "stage_steps" in words else ()
    if counts and "steps" not in words and all(count.isdecimal() for count in counts):
        tree["sampling"]["steps"] = sum(map(int, counts))
    return from_dict(tree)


def describe(config: TrainConfig) -> list[tuple[str, str, str]]:
    """Return (key, present value, help) for every key, in order, for `--help`."""
    rows = []
    tree = dataclasses.asdict(config)
    settings = settings_of(config.model["name"])
    if has_scales(config.process.kind):
        settings = settings | settings_of("pyramid")
    of_data = ("num_classes", "in_channels", "learned_variance", "backbone", "factors")
    tree["model"] = {
        "name": config.model["name"],
        **{name: value for name, value in settings.items() if name not in of_data},
        **config.model,
    }
    for key, value in flatten(tree).items():
        kind = kind_of(key)
        meta = [m.description for m in getattr(kind, "__metadata__", ()) if m.description]
        shown = show(value, kind)
        shown = "none" if shown in (None, "") and not isinstance(value, str) else shown
        rows.append((key.replace("_", "-"), str(shown), meta[-1] if meta else ""))
    return rows


def _pairs(arguments: Sequence[str]) -> list[tuple[str, str]]:
    words, pairs = list(arguments), []
    while words:
        word = words.pop(0)
        if not word.startswith("--") or len(word) < 3:
            raise InputError(
                f"expected an option such as --optim.lr 2e-4, got {word!r}; "
                "the recipe comes first, then options with values"
            )
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not words or words[0].startswith("--"):
                raise InputError(f"--{key}: expected a value after it, got none; give one")
            text = words.pop(0)
        pairs.append((key.replace("-", "_"), text))
    return pairs


def _set(tree: dict[str, Any], key: str, text: str) -> None:
    key = SHORT.get(key, key)
    kind = plain(kind_of(key))
    *groups, leaf = key.split(".")
    if kind is dict or typing.get_origin(kind) is dict:
        raise InputError(f"--{key} is a group; set one of its keys, such as --model.name {text}")
    if dataclasses.is_dataclass(kind):
        keys = ", ".join(f"--{key}.{f.name}".replace("_", "-") for f in dataclasses.fields(kind))
        raise InputError(f"--{key} is a group; set one of {keys}")
    if groups[:1] == ["model"]:
        if len(groups) > 1 or not leaf:
            raise InputError(f"expected --model.SETTING, got --{key}; --help lists the settings")
        tree["model"][leaf] = _guess(text)
        return
    if groups[:1] == ["objectives"]:
        if len(groups) != 2 or not groups[1]:
            raise InputError(f"expected --objectives.NAME.SETTING, got --{key}")
        if leaf == "kind":
            OBJECTIVES.find(text)  # imports the module of a user
        own = tree["objectives"].setdefault(groups[1], {})
        own[leaf] = text if leaf == "kind" else _guess(text)
        return
    if key == "monitor.logger" and text:
        LOGGERS.find(text)  # imports the module of a user
    for group in groups:
        tree = tree[group]
    if kind == tuple[Pixels, ...]:
        tree[leaf] = [] if text == "none" else [part.split("x") for part in text.split(",")]
    elif typing.get_origin(kind) is tuple:
        tree[leaf] = [] if text == "none" else text.replace("x", ",").strip("()").split(",")
    else:
        tree[leaf] = None if text == "none" and type(None) in typing.get_args(kind) else text


def _guess(text: str) -> Any:
    """Read a setting of a network, whose type is known to the network alone."""
    if re.fullmatch(r"\d+([x,]\d+)+", text):
        return [int(number) for number in re.split("[x,]", text)]
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except (ValueError, RecursionError):
        return text
