"""Recipes: functions that return the complete settings of a training run.

A recipe is called `file.function` on the command line, for example `cifar10.flowdcn`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from convflow.training.config import TrainConfig
from convflow.types import InputError, unknown_name


def list_recipes() -> dict[str, str]:
    """Return the name of every recipe and the first line of its description."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        content = importlib.import_module(f"{__name__}.{module.name}")
        for name, function in inspect.getmembers(content, inspect.isfunction):
            if function.__module__ == content.__name__ and not name.startswith("_"):
                found[f"{module.name}.{name}"] = (inspect.getdoc(function) or "").splitlines()[0]
    return found


def create_config(name: str) -> TrainConfig:
    """Return the settings of the recipe `name`.

    Raises:
        InputError: no such recipe; the message names the nearest.
    """
    if name not in (known := list_recipes()):
        raise InputError(unknown_name("recipe", name, known))
    module, _, function = name.partition(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)()
