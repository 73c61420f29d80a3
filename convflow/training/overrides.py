"""Command-line words such as `--optim.lr 2e-4`, put in place of settings, and the help on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from convflow.bundle.config import usual_sampling
from convflow.evaluation.scores import METRICS
from convflow.evaluation.user_code import import_place
from convflow.models.zoo import describe_settings, settings_of
from convflow.objectives.table import OBJECTIVES, OWN, describe_objective, kind_of
from convflow.processes.process import Process
from convflow.samplers.linear import GeneralLinear
from convflow.settings.kinds import import_module
from convflow.settings.read import read, setting_hints, show, to_dict
from convflow.settings.words import help_of, pairs_of, parts_of, read_words, rows_of, shown_at
from convflow.texts import PretrainedText
from convflow.training.config import TrainConfig
from convflow.training.keys import from_dict
from convflow.training.loggers import LOGGERS
from convflow.training.optimizers import OPTIMIZERS
from convflow.training.origin import OF_DATA

SHORT = {
    "data": "data.path",
    "monitor.validation": "monitor.validation.num",
    "monitor.score": "monitor.score.reference",
}
"""Groups that stand for one of their keys."""

AUTOENCODER = "codec.autoencoder"

OF_THE_COMMAND = ("run", "resume", "epochs", "minutes", "import")
"""Options of `convflow train` that are no settings, for messages."""

MODEL_NAME_HELP = "family or published size of the network, or package.module:Name"

FOR_SCALES = GeneralLinear("euler", 40)
"""How a model of scales is sampled where a recipe's own solver cannot."""


def override(config: TrainConfig, arguments: Sequence[str]) -> TrainConfig:
    """Return `config` with command-line words such as `--optim.lr 2e-4` or `--data.size=64x48` set.

    Dashes and underscores are the same. `--data X` is short for `--data.path X`; `--process X`,
    `--codec X` and `--parallel X` choose a kind, whose settings are then its own defaults.
    `--optim X` keeps those of the recipe's optimizer that X has too.

    Raises:
        InputError: an unknown key (the nearest is named), a missing or an unfit value.
    """
    pairs = pairs_of_settings(arguments, config)
    given = read_words(TrainConfig, pairs, parts_of(config), OF_THE_COMMAND)
    tree = to_dict(config)
    # Another network, process or codec starts from its own settings, not from the recipe's.
    if given.get("model.name", tree["model"]["name"]) != tree["model"]["name"]:
        tree["model"] = {}
    for place in ("process", "codec", "parallel", "text"):
        if (kind := given.pop(place, tree[place]["kind"])) != tree[place]["kind"]:
            tree[place] = {"kind": kind}
            if place == "process" and "model.time_scale" not in given:
                tree["model"].pop("time_scale", None)  # that of another process
    # Constants are those of one autoencoder, never of another.
    if given.get(AUTOENCODER, (known := tree["codec"].get("autoencoder"))) != known:
        tree["codec"] |= {"scale": None, "shift": None}
    # Another optimizer keeps what it shares with the recipe's.
    if (kind := given.pop("optim", tree["optim"]["kind"])) != tree["optim"]["kind"]:
        shared = setting_hints(OPTIMIZERS.find(kind))
        kept = {key: value for key, value in tree["optim"].items() if key in shared}
        tree["optim"] = {**kept, "kind": kind}
    if given.get("lora.rank") == 0:  # without adapters their other settings mean nothing
        tree["lora"] = {}
    sampling: dict[str, Any] = {}
    for key, value in given.items():
        *groups, leaf = key.split(".")
        inner = tree
        for group in groups:
            inner = inner.setdefault(group, {})
        (sampling if groups[:1] == ["sampling"] else inner)[leaf] = value
    for key, value in given.items():  # what words name may run code, what files name may not
        if key.startswith("objectives.") and key.endswith(".kind"):
            OBJECTIVES.find(value)
        elif key.startswith("objectives.") and key.endswith(".encoder") and ":" in str(value):
            import_place(value)
        elif key == "monitor.logger":
            for name in filter(None, value.split(",")):
                LOGGERS.find(name)
        elif key == "monitor.score.metrics":
            for name in value.split(","):
                METRICS.find(name)
        elif key == "monitor.score.detector" and ":" in value:
            import_module(value.rpartition(":")[0], f"--{key} {value}")
    process = read(tree["process"], Process, trusted=True)
    base = config.sampling
    if process.multiscale and "solver" not in sampling and not base.solver.multiscale:
        base = replace(base, solver=FOR_SCALES)
    if process.second_time != config.process.second_time:
        base = usual_sampling(process, base)
    return from_dict(tree | {"sampling": base.varied(process, **sampling)}, trusted=True)


def pairs_of_settings(arguments: Sequence[str], config: TrainConfig) -> list[tuple[str, str]]:
    """Return words as pairs of key and text, see `pairs_of`, short ones written out.

    A text encoder by its place is a pretrained one.
    """
    pairs = [(SHORT.get(key, key), text) for key, text in pairs_of(arguments)]
    keys = {key for key, _ in pairs}
    if "text.encoder" in keys and not keys & {"text", "text.kind"} and not config.text.used:
        pairs.append(("text", PretrainedText.kind))
    return pairs


def describe_options(config: TrainConfig) -> list[tuple[str, str, str]]:
    """Return (key, present value, help) for every key, in order, for `--help`."""
    rows, model = [], _model_settings(config)
    for key, hint in rows_of(TrainConfig, parts_of(config)):
        if key == "objectives":
            for name, some in config.objectives.items():
                known = describe_objective(kind_of(name, some) or OWN)
                values = {n: default for n, (default, _) in known.items()} | some
                rows += [
                    (
                        f"objectives.{name}.{n}",
                        "none" if value is None else show(value),
                        help_of(known[n][1]) if n in known else "",
                    )
                    for n, value in values.items()
                ]
        elif key == "model":
            meanings = describe_settings("pyramid") if config.process.multiscale else {}
            meanings |= describe_settings(config.model["name"]) | {"name": MODEL_NAME_HELP}
            rows += [
                (f"model.{name}", "none" if value is None else show(value), meanings.get(name, ""))
                for name, value in model.items()
            ]
        else:
            rows.append((key, shown_at(config, key, hint), help_of(hint)))
    return [(key.replace("_", "-"), str(value), text) for key, value, text in rows]


def _model_settings(config: TrainConfig) -> dict[str, Any]:
    """Return name and settings of the network, but for those that data and process give."""
    settings = settings_of(config.model["name"])
    if config.process.multiscale:
        settings = settings | settings_of("pyramid")
    of_others = (*OF_DATA, "backbone", "factors")
    shown = {name: value for name, value in settings.items() if name not in of_others}
    if "time_scale" in shown:
        shown["time_scale"] = config.process.time_scale
    return {"name": config.model["name"], **shown, **config.model}
