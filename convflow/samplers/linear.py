"""The solvers of fixed cost, Runge-Kutta and Adams-Bashforth, and those found by a search.

They are the general linear methods: every step is a row of numbers (`tableaus.py`, `multistep.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from torch import Tensor

from convflow.processes.contract import Process, Stage
from convflow.samplers.multistep import CoefficientTable, read_table, table_path
from convflow.samplers.ode import SCHEMES, integrate, time_grid
from convflow.samplers.solver import GridSolver, Problem, Solver
from convflow.samplers.tableaus import Scheme, count_evaluations
from convflow.settings.fields import Count, Fraction, doc
from convflow.types import InputError, check_name

STAGE_SETTINGS = ("stage_steps", "thresholds", "stop_scale")
"""Settings of a run over scales."""

PAUSING_SOLVER = "euler"
"""The solver that a zero velocity only makes stand still: it remembers and looks ahead nothing."""


@dataclass(frozen=True)
class GeneralLinear(GridSolver):
    """A solver of the ODE dx/dt = velocity whose steps are rows of numbers, named in `SCHEMES`.

    Of the process "dfm" it moves one scale after the other, see `run_stages`.

    Raises:
        InputError: an unknown name, or a number out of range.
    """

    multiscale: ClassVar[bool] = True

    kind: str = "euler"
    stage_steps: Annotated[
        tuple[Count, ...],
        doc("steps of each scale of dfm; none = 3/4 for the first, then the rest"),
    ] = ()
    thresholds: Annotated[
        tuple[Fraction, ...], doc("time of each scale of dfm when the next one begins; none = 0.9")
    ] = ()
    stop_scale: Annotated[
        Count | None, doc("scale of dfm to stop after, at its size; 1 = coarsest, none = the last")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.scheme
        if self.stage_steps and sum(self.stage_steps) != self.steps:
            raise InputError(
                f"expected stage-steps that sum up to {self.steps} steps, got "
                f"{list(self.stage_steps)}; change one of the two"
            )

    @property
    def scheme(self) -> Scheme:
        """The rows of its steps."""
        check_name("solver", self.kind, SCHEMES)
        return SCHEMES[self.kind]

    def stages(self, process: Process) -> list[Stage]:
        return process.stages(self.steps, self.stage_steps, self.thresholds, self.stop_scale)

    def check(self, process: Process, guidance_kind: str = "cfg") -> None:
        super().check(process, guidance_kind)
        if process.multiscale and (self.shift, self.last_step) != (1.0, None):
            raise InputError(
                f"expected equal steps in each stage of the process {process.kind}, got shift "
                f"{self.shift} and last-step {self.last_step}; leave them out"
            )
        if process.multiscale and guidance_kind == "cfg-zero" and self.kind != PAUSING_SOLVER:
            raise InputError(
                f"expected the solver {PAUSING_SOLVER} for the guidance cfg-zero of a model "
                f"trained with the process {process.kind}, got {self.kind}, which would keep the "
                "zeros of the pause of each scale; choose another of the two"
            )

    @classmethod
    def unfit(cls, process: Process, given: Mapping[str, Any]) -> set[str]:
        other_sum = {"stage_steps"} if "steps" in given else set()
        return super().unfit(process, given) | (
            other_sum if process.multiscale else set(STAGE_SETTINGS)
        )

    def count_evaluations(self, process: Process) -> int:
        """Return how often a run calls the network."""
        stages = self.stages(process)
        return sum(count_evaluations(self.scheme, time_grid(stage.steps)) for stage in stages)

    def describe(self, process: Process) -> dict[str, Any]:
        if not process.multiscale:
            return super().describe(process)
        stages = self.stages(process)
        return {
            "solver": self.kind,
            "steps": sum(stage.steps for stage in stages),
            "stage_steps": [stage.steps for stage in stages],
            "thresholds": [stage.end[-1] for stage in stages[:-1]],
            "stop_scale": self.stop_scale,
            "evaluations": self.count_evaluations(process),
        }

    def solve(self, problem: Problem) -> Tensor:
        grid = self.grid(problem.stage.steps, problem.field.begin)
        return integrate(
            problem.field, problem.x, problem.labels, grid, self.scheme, problem.callback
        )


@dataclass(frozen=True)
class Searched(Solver):
    """A solver with times and coefficients of its own, found by `convflow bench solvers`.

    Raises:
        InputError: a table of another number of steps, or one that cannot be read.
    """

    kind: ClassVar[str] = "searched"

    steps: Annotated[
        Count | None, doc("number of solver steps of the table; none = as the table given has")
    ] = None
    table: Annotated[
        Any, doc("a .json file of convflow bench solvers; none = solvers/steps_N.json of the model")
    ] = None

    def __post_init__(self) -> None:
        """Read the table where a file is named."""
        table = read_table(Path(self.table)) if isinstance(self.table, str) else self.table
        table = read_table(table) if isinstance(table, (Path, Mapping)) else table
        if table is None:
            return
        object.__setattr__(self, "table", table)
        found = len(table.coefficients)
        if self.steps not in (None, found):
            raise InputError(
                f"expected steps {found} as in the table, got {self.steps}; leave it out"
            )
        object.__setattr__(self, "steps", found)

    @property
    def num_steps(self) -> int | None:
        return self.steps

    @classmethod
    def unfit(cls, process: Process, given: Mapping[str, Any]) -> set[str]:
        return {"steps"} if given.get("table") is not None else set()

    def beside(self, folder: Path | None) -> Searched:
        """Return the solver with its table, that of the model folder unless it has one."""
        if self.table is not None:
            return self
        if folder is None or self.steps is None:
            raise InputError(
                f"expected a table of coefficients for the solver {self.kind}, got none; "
                "convflow bench solvers MODEL --steps N makes one"
            )
        return replace(self, table=read_table(table_path(folder, self.steps)))

    def solve(self, problem: Problem) -> Tensor:
        table: CoefficientTable = self.beside(None).table
        return integrate(
            problem.field, problem.x, problem.labels, table.times, table.solver, problem.callback
        )
