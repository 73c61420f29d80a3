"""All solvers by name, and how settings of one become those of another."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

from convflow.processes.contract import Process
from convflow.samplers.adaptive import Dopri5
from convflow.samplers.ancestral import DDIM, Ancestral
from convflow.samplers.average import Average
from convflow.samplers.exponential import EXPONENTIAL_SOLVERS, Exponential
from convflow.samplers.linear import GeneralLinear, Searched
from convflow.samplers.ode import SCHEMES
from convflow.samplers.sde import SDE, SDE_SOLVERS
from convflow.samplers.solver import Solver as Solver
from convflow.settings.kinds import Table
from convflow.settings.read import read, setting_hints
from convflow.types import InputError

SOLVERS: Table[type[Solver]] = Table(
    "solver",
    Solver,
    {
        **dict.fromkeys(SCHEMES, GeneralLinear),
        **dict.fromkeys(EXPONENTIAL_SOLVERS, Exponential),
        **dict.fromkeys(SDE_SOLVERS, SDE),
        **{cls.kind: cls for cls in (Dopri5, Ancestral, DDIM, Average, Searched)},
    },
)
Solver.kinds = SOLVERS


def create_solver(solver: str = "euler", **settings: Any) -> Solver:
    """Return a solver by name.

    Args:
        solver: a name in `SOLVERS`, or `package.module:Name` of your own.
        **settings: fields of the solver.

    Raises:
        InputError: an unknown name or setting (the nearest is named), or an unfit value.

    Examples:
        >>> create_solver("heun", steps=20).stages(FlowMatching())  # doctest: +SKIP
    """
    return read({"kind": solver, **settings}, Solver, trusted=True)


def vary_solver(stored: Solver, process: Process, given: Mapping[str, Any]) -> Solver:
    """Return a solver with settings in place of those stored, and perhaps of another kind.

    A stored setting stays where the solver has it too, unless it means nothing for the process or
    beside what is given. `steps` becomes the sum of `stage_steps` where these alone are given.

    Args:
        stored: the solver to begin from.
        process: that the model was trained with.
        given: settings by name; `solver` is a name in `SOLVERS` or a solver.

    Raises:
        InputError: an unknown solver, what it does not have, or what is out of range.
    """
    own = dict(given)
    solver = own.pop("solver", stored.kind)
    if isinstance(solver, Solver):
        stored, solver = solver, solver.kind
    if not isinstance(solver, str):
        raise InputError(f"solver: expected a name, got {solver!r}; change it")
    kind: type[Solver] = SOLVERS.find(solver) if solver != stored.kind else type(stored)
    counts = own.get("stage_steps")
    if "steps" not in own and counts and isinstance(counts, (list, tuple)):
        own["steps"] = sum(count for count in counts if isinstance(count, Integral))
    unfit = kind.unfit(process, own)
    kept = {
        name: getattr(stored, name) for name in setting_hints(type(stored)) if name not in unfit
    }
    common = {name: value for name, value in kept.items() if name in setting_hints(kind)}
    return create_solver(solver, **common | own)


def check_shift(solver: Solver, process: Process) -> None:
    """Raise InputError when a solver has no shift for a process, were it 1."""
    if not hasattr(solver, "shift") or process.multiscale:
        others = [name for name, cls in SOLVERS.items() if "shift" in setting_hints(cls)]
        raise InputError(
            "expected a solver with a shift, and another process than dfm, for the shift auto, got "
            f"the solver {solver.kind} and the process {process.kind}; leave it out, or choose "
            f"{' or '.join(others)}"
        )
