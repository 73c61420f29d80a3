"""Objectives by name, and those of a run from its settings."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from torch import nn

from convflow.models.backbone import Backbone
from convflow.objectives.average import AverageVelocity
from convflow.objectives.objective import Objective
from convflow.objectives.regression import Regression
from convflow.processes.meanflow import MeanFlow
from convflow.processes.process import Process
from convflow.settings.kinds import Table
from convflow.types import InputError, Size, unknown_name

OWN = "process"
"""The name of the objective that every run has unless its weight is 0: the process's own loss."""

OBJECTIVES: Table[Any] = Table("objective", Objective, {OWN: Regression})
"""The classes of objectives; users name others as `package.module:Name`."""


class Weighted(NamedTuple):
    """An objective and the factor on it in the loss."""

    objective: Objective
    weight: float


def create_objectives(
    settings: Mapping[str, Mapping[str, Any]],
    network: nn.Module,
    process: Process,
    trained: Size | None = None,
) -> dict[str, Weighted]:
    """Return the objectives of a run by name, the process's own first.

    Args:
        settings: by the name of the objective: `kind`, `weight` and the settings of this kind.
            Nothing is the process's own loss alone.
        network: to be trained.
        process: it is trained with.
        trained: as of `Regression`.

    Raises:
        InputError: an unknown kind or setting, a weight that is none, or no objective at all.
    """
    given = {OWN: {"kind": OWN}} | {name: dict(some) for name, some in settings.items()}
    found = {}
    for name, some in given.items():
        kind, weight = some.pop("kind", OWN if name == OWN else None), some.pop("weight", 1.0)
        place = f"--objectives.{name.replace('_', '-')}"
        if not re.fullmatch("[a-z][a-z0-9_]*", name) or hasattr(nn.ModuleDict, name):
            raise InputError(
                f"{place}: expected a name of small letters, digits and dashes that torch's "
                f"ModuleDict has no method of, got {name!r}; choose another such as align"
            )
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not weight >= 0:
            raise InputError(f"{place}.weight: expected a number of at least 0, got {weight!r}")
        if not math.isfinite(weight):
            raise InputError(f"{place}.weight: expected a finite number, got {weight}")
        if not isinstance(kind, str):
            raise InputError(f"{place}.kind: expected package.module:Name, got {kind!r}; add it")
        if weight:
            objective = _create(place, kind, some, network, process, trained)
            found[name] = Weighted(objective, float(weight))
    if not found:
        raise InputError(
            f"--objectives.{OWN}.weight: expected above 0 without another objective, got 0"
        )
    return found


def _create(
    place: str,
    kind: str,
    settings: Mapping[str, Any],
    network: nn.Module,
    process: Process,
    trained: Size | None,
) -> Objective:
    """Return one objective, or raise InputError about its settings at `place`."""
    cls = OBJECTIVES.find(kind, trusted=False)
    accepted = [] if cls is Regression else list(inspect.signature(cls).parameters)[2:]
    for name in settings:
        if name not in accepted:
            raise InputError(f"{place}: {unknown_name('setting', name, accepted)}")
    if cls is Regression:
        if isinstance(process, MeanFlow):
            return AverageVelocity(cast(Backbone, network), process, trained)
        return Regression(process, trained)
    try:
        objective: Objective = cls(network, process, **settings)
    except InputError:
        raise
    except (TypeError, ValueError) as error:  # of the code of a user
        raise InputError(f"{place}: {kind} cannot be built ({error}); change it") from error
    if any(module is network for module in objective.modules()):
        raise InputError(
            f"{place}: expected an objective without the network in it, got {kind} with it as an "
            "attribute; use the network that terms() is given"
        )
    return objective
