"""Recipes: functions that return the complete settings of a training run.

A recipe is called `file.function` on the command line, for example `cifar10.flowdcn`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import NamedTuple

from convflow.training.config import TrainConfig
from convflow.types import check_name

SOURCE = "paper, not reproduced here"
"""Where all targets come from, said wherever one is printed."""


class Target(NamedTuple):
    """Scores that a paper reports for a recipe's settings; None where none was found.

    `guided` says whether with guidance, `samples` of how many samples, `citation` by whom.
    """

    fid: float | None
    sfid: float | None
    inception_score: float | None
    precision: float | None
    recall: float | None
    guided: bool
    samples: int | None
    citation: str

    def __str__(self) -> str:
        """Return the scores in a line, marked as the paper's, not reproduced here."""
        words = ("FID", "sFID", "IS", "precision", "recall")
        found = [f"{w} {v}" for w, v in zip(words, self[:5], strict=True) if v is not None]
        if not found:
            return f"no score found ({self.citation})"
        count = "" if self.samples is None else f", {self.samples:,} samples"
        guidance = "with guidance" if self.guided else "without guidance"
        return f"{', '.join(found)} {guidance}{count} ({SOURCE}: {self.citation})"


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
    check_name("recipe", name, list_recipes())
    module, _, function = name.partition(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)()


def find_target(name: str) -> Target | None:
    """Return the paper's scores for a known recipe, None where it has no paper."""
    module, _, function = name.partition(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), "TARGETS", {}).get(function)
