"""Any sampler by name: one table of solvers, one function that runs them on any process."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from convflow.processes.contract import Draw, Field, Process, Stage
from convflow.processes.ddpm import DDPM
from convflow.processes.process import has_scales
from convflow.samplers.adaptive import ADAPTIVE_SOLVERS, integrate_adaptive
from convflow.samplers.ancestral import ANCESTRAL_SOLVERS, ancestral, ddim
from convflow.samplers.exponential import EXPONENTIAL_SOLVERS, integrate_exponential
from convflow.samplers.multistep import Table
from convflow.samplers.ode import SOLVERS, Callback, integrate, time_grid
from convflow.samplers.sde import SDE_SOLVERS, check_diffusion, integrate_sde
from convflow.samplers.tableaus import count_evaluations
from convflow.types import InputError, Size, check_kinds, check_several, unknown_name

Guide = Callable[[Callable[[Any], Field]], Field]
"""Makes the guided field of a run, given what makes the field of any network."""

SEARCHED = "searched"
PAUSING = "euler"
"""The solver that a zero velocity only makes stand still: it remembers and looks ahead nothing."""

GRID = ("shift", "last_step")
STAGES = ("stage_steps", "thresholds", "stop_scale")
OPTIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(SOLVERS, (*GRID, *STAGES)),
    **dict.fromkeys(EXPONENTIAL_SOLVERS, GRID),
    **dict.fromkeys(SDE_SOLVERS, (*GRID, "diffusion", "strength", "last")),
    **dict.fromkeys(ADAPTIVE_SOLVERS, ("atol", "rtol")),
    "ddpm": ("clip",),
    "ddim": ("eta", "clip"),
    SEARCHED: (),
}
"""Every solver, and the settings of a `Sampler` that mean something to it."""


def check_shift(solver: str, kind: str) -> None:
    """Raise InputError when a solver has no shift for a kind of process, were it 1; by names."""
    if has_scales(kind) or "shift" not in OPTIONS.get(solver, GRID):
        others = [name for name, options in OPTIONS.items() if "shift" in options]
        raise InputError(
            "expected a solver with a shift, and another process than dfm, for the shift auto, got "
            f"the solver {solver} and the process {kind}; leave it out, or choose "
            f"{' or '.join(others)}"
        )


@dataclass(frozen=True)
class Sampler:
    """A solver, its number of steps and its own settings; `OPTIONS` says which it has.

    Args:
        solver: a name in `OPTIONS`.
        steps: number of steps; `dopri5` has none, and a searched table has its own.
        shift: time shift of the grid, see `time_grid`.
        last_step: length of the last step, see `time_grid`.
        diffusion: of an SDE, see `integrate_sde`.
        strength: of an SDE's diffusion.
        last: how the last step of an SDE goes.
        eta: of DDIM, 0 to 1.
        clip: keep predicted data in [-1, 1]; for pixels.
        atol: absolute tolerance of `dopri5`.
        rtol: relative tolerance of `dopri5`.
        stage_steps: of the process "dfm": steps of each scale's stage, which sum up to `steps`; by
            default as in `split_steps`.
        thresholds: of the process "dfm": the time of each scale but the finest at which the next
            begins; one number stands for all; by default 0.9.
        stop_scale: of the process "dfm": the number, from 1, of the scale to stop after.
        table: of the solver "searched".

    Raises:
        InputError: an unknown solver, a setting that it does not have, or a number out of range.
    """

    solver: str = "euler"
    steps: int = 50
    shift: float = 1.0
    last_step: float | None = None
    diffusion: str = "sigma"
    strength: float = 1.0
    last: str = "mean"
    eta: float = 0.0
    clip: bool = False
    atol: float = 1e-6
    rtol: float = 1e-3
    stage_steps: tuple[int, ...] = ()
    thresholds: tuple[float, ...] = ()
    stop_scale: int | None = None
    table: Table | None = None

    def __post_init__(self) -> None:
        """Check the kinds, the names, and the grid."""
        check_kinds(str, solver=self.solver, diffusion=self.diffusion, last=self.last)
        check_kinds(Integral, steps=self.steps)
        check_kinds(Real, shift=self.shift, last_step=self.last_step, strength=self.strength)
        check_kinds(Real, eta=self.eta, atol=self.atol, rtol=self.rtol)
        check_several(Integral, stage_steps=self.stage_steps)
        check_several(Real, thresholds=self.thresholds)
        check_kinds(Integral, stop_scale=self.stop_scale)
        if self.solver not in OPTIONS:
            raise InputError(unknown_name("solver", self.solver, OPTIONS))
        own = OPTIONS[self.solver]
        for field in dataclasses.fields(self)[2:-1]:
            if field.name not in own and getattr(self, field.name) != field.default:
                others = [name for name, options in OPTIONS.items() if field.name in options]
                raise InputError(
                    f"the solver {self.solver} has no {field.name.replace('_', '-')}, got "
                    f"{getattr(self, field.name)}; leave it out, or choose {' or '.join(others)}"
                )
        if (self.table is None) == (self.solver == SEARCHED):
            raise InputError(
                f"expected a table of coefficients for the solver {SEARCHED} and for no other; "
                "convflow bench solvers MODEL --steps N makes one"
            )
        if self.solver in SDE_SOLVERS:
            check_diffusion(self.diffusion, self.strength, self.last)
        if not 0 <= self.eta <= 1:
            raise InputError(f"expected eta in [0, 1], got {self.eta}; change it")
        if not (0 < self.atol < math.inf and 0 < self.rtol < math.inf):
            raise InputError(
                f"expected finite tolerances above 0, got {self.atol} and {self.rtol}; change them"
            )
        self.grid()
        if self.stage_steps and sum(self.stage_steps) != self.steps:
            raise InputError(
                f"expected stage-steps that sum up to {self.steps} steps, got "
                f"{list(self.stage_steps)}; change one of the two"
            )

    def grid(self) -> list[float]:
        """Return the times of the steps; two for a solver that finds its own."""
        if self.table is not None:
            return list(self.table.times)
        return time_grid(self.steps, shift=self.shift, last_step=self.last_step)

    def stages(self, process: Process) -> list[Stage]:
        """Return the stages of a run: one, but of scales.

        Raises:
            InputError: settings that are not those of the process.
        """
        steps = 1 if self.solver in ADAPTIVE_SOLVERS else len(self.grid()) - 1
        return process.stages(steps, self.stage_steps, self.thresholds, self.stop_scale)

    def stage_ends(self, process: Process) -> tuple[int, ...]:
        """Return how many steps are done after each stage."""
        return tuple(itertools.accumulate(stage.steps for stage in self.stages(process)))

    def count_evaluations(self, process: Process) -> int:
        """Return how often a solver of fixed cost calls the network in a run."""
        solver, stages = SOLVERS[self.solver], self.stages(process)
        return sum(count_evaluations(solver, time_grid(stage.steps)) for stage in stages)

    def enlargement(self, process: Process) -> int:
        """Return how many times larger than the result the noise is: above 1 after a stop."""
        return process.shrinkage[len(self.stages(process)) - 1]

    def size(self, process: Process, size: Size, factor: int = 1) -> Size:
        """Return the size in pixels of what becomes of whole pictures: smaller after a stop.

        Args:
            process: that the model was trained with.
            size: height and width in pixels of whole pictures.
            factor: of the codec.

        Raises:
            InputError: scales whose sizes are not whole.
        """
        height, width = process.sizes(size, factor)[len(self.stages(process)) - 1]
        return height * factor, width * factor

    def describe(self, process: Process | None = None) -> dict[str, Any]:
        """Return solver, steps and the settings that mean something to it, ready for JSON."""
        if process is not None and process.multiscale:
            stages = self.stages(process)
            return {
                "solver": self.solver,
                "steps": sum(stage.steps for stage in stages),
                "stage_steps": [stage.steps for stage in stages],
                "thresholds": [stage.end[-1] for stage in stages[:-1]],
                "stop_scale": self.stop_scale,
                "evaluations": self.count_evaluations(process),
            }
        told: dict[str, Any] = {"solver": self.solver, "steps": len(self.grid()) - 1}
        if self.solver in ADAPTIVE_SOLVERS:
            told["steps"] = None
        if self.table is not None:
            told["table"] = self.table._asdict()
        own = (name for name in OPTIONS[self.solver] if name not in STAGES)
        return told | {name: getattr(self, name) for name in own}

    def check_guidance(self, kind: str, scales: bool = False) -> None:
        """Raise InputError when a kind of guidance cannot act on what the solver asks for.

        Args:
            kind: of guidance.
            scales: whether the process has scales. In its stages the first steps of a scale cannot
                be left out, for others move in them.
        """
        if kind == "cfg-zero" and self.solver in ANCESTRAL_SOLVERS:
            raise InputError(
                f"the guidance cfg-zero is for velocities, got the solver {self.solver}, "
                "which predicts noise; choose another of the two"
            )
        if kind == "cfg-zero" and scales and self.solver != PAUSING:
            raise InputError(
                f"expected the solver {PAUSING} for the guidance cfg-zero of a model trained with "
                f"the process dfm, got {self.solver}, which would keep the zeros of the pause of "
                "each scale; choose another of the two"
            )

    def check_process(self, process: Process) -> None:
        """Raise InputError when solver or settings are not those of the process."""
        if process.multiscale and self.solver not in SOLVERS:
            raise InputError(
                f"expected a solver of fixed cost for a model trained with the process "
                f"{process.kind}, got {self.solver}; choose {', '.join(SOLVERS)}"
            )
        if process.multiscale and (self.shift, self.last_step) != (1.0, None):
            raise InputError(
                f"expected equal steps in each stage of the process {process.kind}, got shift "
                f"{self.shift} and last-step {self.last_step}; leave them out"
            )
        self.stages(process)
        if self.solver in ANCESTRAL_SOLVERS:
            if not isinstance(process, DDPM):
                raise InputError(
                    f"the solver {self.solver} needs a model trained with the process ddpm, got "
                    "one of flow matching; choose another such as heun or euler-maruyama"
                )
            process.respaced(self.steps)

    def run(
        self,
        process: Process,
        guide: Guide,
        noise: Float[Tensor, "B C H W"],
        labels: Int[Tensor, " B"],
        draw: Draw,
        callback: Callback | None = None,
    ) -> Float[Tensor, "B C _ _"]:
        """Return data in model space, smaller than the noise only after a `stop_scale`.

        Args:
            process: that the model was trained with.
            guide: from what makes a field of a network to the guided field of the model.
            noise: to start from.
            labels: class labels, `num_classes` for none.
            draw: from 1, 2, ... to more noise, of that step for random solvers.
            callback: told of every step, with the running data at the size of the result.

        Raises:
            InputError: a solver that needs another process or a package that is missing.
        """
        self.check_process(process)
        stages, size, state = self.stages(process), (noise.shape[2], noise.shape[3]), None
        total, done = sum(stage.steps for stage in stages), 0
        for stage in stages:

            def report(
                step: int, of: int, x: Tensor, done: int = done, rest: int = total - stage.steps
            ) -> None:
                if callback is not None:  # steps that guidance leaves out do not count
                    callback(done + step, rest + of, process.finish(x, size, stages))

            state = process.start(noise, draw, stage, state)
            field = guide(partial(self._field, process, stage, noise))
            state = self._solve(process, field, state, labels, stage, draw, report)
            done += stage.steps
        assert state is not None
        return process.finish(state, size, stages)

    def _field(self, process: Process, stage: Stage, noise: Tensor, network: Any) -> Field:
        """Return what the solver asks of a network: a velocity, or its own prediction."""
        if isinstance(process, DDPM) and self.solver in ANCESTRAL_SOLVERS:
            return process.chain(network)
        return process.field(network, stage, noise)

    def _solve(
        self,
        process: Process,
        field: Field,
        x: Tensor,
        labels: Tensor,
        stage: Stage,
        draw: Draw,
        callback: Callback,
    ) -> Tensor:
        """Return the state at the end of a stage."""
        solver = self.solver
        if solver in ADAPTIVE_SOLVERS:
            x = integrate_adaptive(field, x, labels, atol=self.atol, rtol=self.rtol).state
            callback(1, 1, x)
            return x
        if isinstance(process, DDPM) and solver in ANCESTRAL_SOLVERS:
            walk = ancestral if solver == "ddpm" else partial(ddim, eta=self.eta)
            return walk(
                field, process, x, labels, self.steps, draw, clip=self.clip, callback=callback
            )
        if self.table is not None:
            return integrate(field, x, labels, self.grid(), self.table.solver, callback)
        grid = time_grid(stage.steps, shift=self.shift, last_step=self.last_step)
        grid = grid[min(sum(time < field.begin for time in grid), len(grid) - 2) :]
        if solver in SOLVERS:
            return integrate(field, x, labels, grid, solver, callback)
        if solver in EXPONENTIAL_SOLVERS:
            return integrate_exponential(field, process.path, x, labels, grid, solver, callback)
        return integrate_sde(
            field,
            process.path,
            x,
            labels,
            grid,
            solver,
            draw=draw,
            diffusion=self.diffusion,
            strength=self.strength,
            last=self.last,
            callback=callback,
        )
