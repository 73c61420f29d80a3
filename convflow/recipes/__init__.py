"""Recipes: functions that return the complete settings of a training run.

A recipe is called `file.function` on the command line, for example `cifar10.flowdcn`.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from convflow.types import check_name

if TYPE_CHECKING:
    from convflow.training.config import TrainConfig

SOURCE = "paper, not reproduced here"
"""Where all targets come from, said wherever one is printed."""


class TargetScores(NamedTuple):
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


class ReferenceCurve(NamedTuple):
    """Losses that a recipe reached here.

    Attributes:
        losses: by images seen; each the mean of `metrics.jsonl` over the last fifth before.
        origin: the machine and the command.
    """

    losses: Mapping[int, float]
    origin: str


def list_recipes() -> dict[str, str]:
    """Return the name of every recipe and the first line of its description.

    They are read from the source, for the recipes import torch.
    """
    found = {}
    for module in pkgutil.iter_modules(__path__):
        source = Path(__file__).with_name(f"{module.name}.py").read_text(encoding="utf-8")
        functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
        for function in sorted(functions, key=lambda function: function.name):
            if not function.name.startswith("_"):
                first = (ast.get_docstring(function) or "").partition("\n")[0]
                found[f"{module.name}.{function.name}"] = first
    return found


def create_config(name: str) -> TrainConfig:
    """Return the settings of the recipe `name`.

    Raises:
        InputError: no such recipe; the message names the nearest.
    """
    check_name("recipe", name, list_recipes())
    module, _, function = name.partition(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)()


def find_target(name: str) -> TargetScores | None:
    """Return the paper's scores for a known recipe, None where it has no paper."""
    return _find("TARGETS", name)


def find_curve(name: str) -> ReferenceCurve | None:
    """Return the losses that a known recipe reached here, None where it was not run in full."""
    return _find("CURVES", name)


def _find(table: str, name: str) -> Any:
    """Return the entry of a recipe in a table of its module, None where there is none."""
    module, _, function = name.partition(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), table, {}).get(function)
