"""Objectives by name, and those of a run from its settings."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, cast

from torch import nn

from convflow.models.backbone import Backbone
from convflow.objectives.average import AverageVelocity
from convflow.objectives.contrastive import Contrastive
from convflow.objectives.direction import Direction
from convflow.objectives.dispersive import Dispersive
from convflow.objectives.irepa import IREPA
from convflow.objectives.objective import Objective
from convflow.objectives.regression import Regression
from convflow.objectives.repa import REPA
from convflow.objectives.sra import SRA
from convflow.objectives.urepa import UREPA
from convflow.objectives.velocity import VelocityError
from convflow.processes.meanflow import MeanFlow
from convflow.processes.process import Process
from convflow.settings.fields import Count, Natural, NotNegative, doc
from convflow.settings.kinds import Table
from convflow.settings.read import defaults, hints_of, read_value
from convflow.types import InputError, Size, unknown_name

OWN = "process"
"""The name of the objective that every run has unless its weight is 0: the process's own loss."""

OBJECTIVES: Table[Any] = Table(
    "objective",
    Objective,
    {
        OWN: Regression,
        "velocity": VelocityError,
        "repa": REPA,
        "irepa": IREPA,
        "u-repa": UREPA,
        "sra": SRA,
        "dispersive": Dispersive,
        "contrastive": Contrastive,
        "direction": Direction,
    },
)
"""The classes of objectives; users name others as `package.module:Name`."""


COMMON: dict[str, Any] = {
    "kind": Annotated[str, doc("kind of the objective, or package.module:Name; none = NAME")],
    "weight": Annotated[NotNegative, doc("factor in the loss; 0 leaves the objective out")],
    "until": Annotated[Count | None, doc("images seen after which it is left out; none = never")],
    "fade": Annotated[Natural, doc("images over which the weight falls to 0, before `until`")],
}
"""The settings that all objectives have."""


class Weighted(NamedTuple):
    """An objective and the factor on it in the loss, which may end at a number of images seen."""

    objective: Objective
    weight: float
    until: int | None = None
    fade: int = 0

    def weight_at(self, images_seen: int) -> float:
        """Return the factor after so many images: it falls linearly over the last `fade` ones."""
        if self.until is None:
            return self.weight
        left = max(self.until - images_seen, 0)
        return self.weight * (min(left / self.fade, 1) if self.fade else float(left > 0))


def create_objectives(
    settings: Mapping[str, Mapping[str, Any]],
    network: nn.Module,
    process: Process,
    trained: Size | None = None,
) -> dict[str, Weighted]:
    """Return the objectives of a run by name, the process's own first.

    Args:
        settings: by the name of the objective: those in `COMMON`, and the settings of its kind. An
            objective without a kind has its own name for one. Nothing is the process's own loss
            alone.
        network: to be trained.
        process: it is trained with.
        trained: as of `Regression`.

    Raises:
        InputError: an unknown kind or setting, a value that does not fit, or no objective at all.
    """
    given = {OWN: dict[str, Any]()} | {name: dict(some) for name, some in settings.items()}
    found = {}
    for name, some in given.items():
        place = f"--objectives.{name.replace('_', '-')}"
        if not re.fullmatch("[a-z][a-z0-9_]*", name) or hasattr(nn.ModuleDict, name):
            raise InputError(
                f"{place}: expected a name of small letters, digits and dashes that torch's "
                f"ModuleDict has no method of, got {name!r}; choose another such as align"
            )
        kind = kind_of(name, some)
        if not isinstance(kind, str):
            known = ", ".join(key for key in OBJECTIVES if key != OWN)
            raise InputError(
                f"{place}.kind: expected {known} or package.module:Name, got {kind!r}; add it, or "
                "name the objective like its kind"
            )
        common = _read_common(place, some)
        if name == OWN and common["until"] is not None:
            raise InputError(f"{place}.until: expected none, for others rest on it; leave it out")
        cls = OBJECTIVES.find(kind, trusted=False)
        weight = cls.usual_weight if common["weight"] is None else common["weight"]
        if weight:
            rest = {key: value for key, value in some.items() if key not in COMMON}
            objective = _create(place, kind, rest, network, process, trained)
            found[name] = Weighted(objective, weight, common["until"], common["fade"])
    _check_first(found)
    return found


def kind_of(name: str, settings: Mapping[str, Any]) -> Any:
    """Return the kind of an objective from its settings; without one it is its name, or None."""
    own = name.replace("_", "-")
    return settings.get("kind", own if own in OBJECTIVES else None)


def describe_objective(kind: str) -> dict[str, tuple[Any, Any]]:
    """Return default and annotation of each setting of a kind of objective, the common ones first.

    Raises:
        InputError: an unknown kind, or code of a user that was not imported.
    """
    cls = OBJECTIVES.find(kind, trusted=False)
    values = {"kind": kind, "weight": cls.usual_weight, "until": None, "fade": 0}
    found = {name: (values[name], hint) for name, hint in COMMON.items()}
    return found | _settings_of(cls)


def _read_common(place: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return weight, until and fade, checked; a weight of None is the usual one."""
    found: dict[str, Any] = {"weight": None, "until": None, "fade": 0}
    for name in found:
        if name in settings:
            found[name] = read_value(settings[name], COMMON[name], f"{place}.{name}")
    if found["fade"] and found["until"] is None:
        raise InputError(
            f"{place}.fade: expected {place}.until with it, got none; say when the weight is 0"
        )
    if found["until"] is not None and found["fade"] > found["until"]:
        raise InputError(
            f"{place}.fade: expected at most the {found['until']:,} images of {place}.until, got "
            f"{found['fade']:,}; lower it"
        )
    return found


def _check_first(found: Mapping[str, Weighted]) -> None:
    """Raise InputError where there is nothing to train, or nothing that others look at."""
    if not found:
        raise InputError(
            f"--objectives.{OWN}.weight: expected above 0 without another objective, got 0"
        )
    if all(weighted.until is not None for weighted in found.values()):
        raise InputError(
            f"--objectives.{next(iter(found))}.until: expected an objective that does not end, got "
            "none; leave it out"
        )
    own = found[OWN].objective if OWN in found else None
    if isinstance(own, Regression) and not isinstance(own, AverageVelocity):
        return
    for name, weighted in found.items():
        if weighted.objective.wants.first:
            key = name.replace("_", "-")
            got = "an average of velocities" if isinstance(own, AverageVelocity) else "none"
            raise InputError(
                f"--objectives.{key}: expected a loss of the process at one "
                f"time beside it, got {got}; leave out "
                + (f"--objectives.{key}" if own is not None else f"--objectives.{OWN}")
            )


def _settings_of(cls: type[Objective]) -> dict[str, tuple[Any, Any]]:
    """Return default and annotation of each setting of a class, the latter None where it is none.

    They are what its constructor takes besides network and process, or the fields of a dataclass
    that it takes there as `settings`.
    """
    if cls is Regression:
        return {}
    if group := _dataclass_of(cls):
        hints = hints_of(group)
        return {
            name: (None if value is dataclasses.MISSING else value, hints[name])
            for name, value in defaults(group).items()
        }
    hints = {name: hint for name, hint in _hints_of(cls).items() if hasattr(hint, "__metadata__")}
    return {
        parameter.name: (
            None if parameter.default is parameter.empty else parameter.default,
            hints.get(parameter.name),
        )
        for parameter in [*inspect.signature(cls).parameters.values()][2:]
    }


def _dataclass_of(cls: type[Objective]) -> Any:
    """Return the dataclass of the settings of a class, None where its constructor lists them."""
    kind = _hints_of(cls).get("settings")
    return kind if dataclasses.is_dataclass(kind) else None


def _hints_of(cls: type[Objective]) -> dict[str, Any]:
    """Return the annotations of what the constructor of a class takes."""
    try:
        return typing.get_type_hints(cls.__init__, include_extras=True)
    except NameError:  # of the code of a user
        return {}


def _create(
    place: str,
    kind: str,
    settings: dict[str, Any],
    network: nn.Module,
    process: Process,
    trained: Size | None,
) -> Objective:
    """Return one objective, or raise InputError about its settings at `place`."""
    cls = OBJECTIVES.find(kind, trusted=False)
    known = _settings_of(cls)
    for name, value in settings.items():
        key = f"{place}.{name.replace('_', '-')}"
        if name not in known:
            raise InputError(f"{place}: {unknown_name('setting', name, known)}")
        if known[name][1] is not None:
            settings[name] = read_value(value, known[name][1], key)
    if cls is Regression and isinstance(process, MeanFlow):
        return AverageVelocity(cast(Backbone, network), process, trained)
    try:
        given: Any = (process, trained) if issubclass(cls, Regression) else (network, process)
        group = _dataclass_of(cls)
        more = settings if group is None else {"settings": group(**settings)}
        objective: Objective = cls(*given, **more)
    except InputError as error:
        raise InputError(str(error).replace("--objectives.NAME", place)) from error
    except (TypeError, ValueError) as error:  # of the code of a user
        raise InputError(f"{place}: {kind} cannot be built ({error}); change it") from error
    if any(module is network for module in objective.modules()):
        raise InputError(
            f"{place}: expected an objective without the network in it, got {kind} with it as an "
            "attribute; use the network that terms() is given"
        )
    return objective
