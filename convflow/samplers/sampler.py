"""Any sampler by name: one table of solvers, one function that runs them on any process."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, cast

from jaxtyping import Float, Int
from torch import Tensor

from convflow.processes.ddpm import DDPM
from convflow.processes.multiscale import MultiscaleFlow, ScalesNetwork
from convflow.processes.process import Process
from convflow.samplers.adaptive import ADAPTIVE_SOLVERS, integrate_adaptive
from convflow.samplers.ancestral import ANCESTRAL_SOLVERS, ancestral, ddim
from convflow.samplers.exponential import EXPONENTIAL_SOLVERS, integrate_exponential
from convflow.samplers.guidance import Clock
from convflow.samplers.multistep import Table
from convflow.samplers.ode import SOLVERS, Callback, integrate, time_grid
from convflow.samplers.sde import SDE_SOLVERS, Draw, check_diffusion, integrate_sde
from convflow.samplers.staged import (
    THRESHOLD,
    Stage,
    count_staged_evaluations,
    plan_stages,
    sample_staged,
    split_steps,
)
from convflow.types import Denoiser, InputError, Size, check_kinds, check_several, unknown_name

Guide = Callable[[Denoiser, Clock | None], Denoiser]
"""From a Denoiser, and what turns its times into flow time, to the guided one."""

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
    if kind == "dfm" or "shift" not in OPTIONS.get(solver, GRID):
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

    def stages(self, process: MultiscaleFlow) -> list[Stage]:
        """Return the stages of a run over scales, those after `stop_scale` left out.

        Raises:
            InputError: settings that are not those of so many scales.
        """
        scales, stop = process.num_scales, self.stop_scale or process.num_scales
        thresholds = self.thresholds or (THRESHOLD,)
        thresholds = thresholds * (scales - 1) if len(thresholds) == 1 else thresholds
        for name, numbers, count in (
            ("stage-steps", self.stage_steps, scales),
            ("thresholds" if scales > 2 else "threshold", thresholds, scales - 1),
        ):
            if numbers and len(numbers) != count:
                raise InputError(
                    f"expected {count} {name} for {scales} scales, got {list(numbers)}; change them"
                )
        if not 1 <= stop <= scales:
            raise InputError(f"expected a stop-scale from 1 to {scales}, got {stop}; change it")
        steps = self.stage_steps or split_steps(self.steps, scales)
        return plan_stages(steps[:stop], thresholds[: stop - 1])

    def stage_ends(self, process: Process) -> tuple[int, ...]:
        """Return how many steps are done after each stage: one stage, but of scales."""
        if isinstance(process, MultiscaleFlow):
            return tuple(itertools.accumulate(stage.steps for stage in self.stages(process)))
        return (1 if self.solver in ADAPTIVE_SOLVERS else len(self.grid()) - 1,)

    def enlargement(self, process: Process) -> int:
        """Return how many times larger than the result the noise is: above 1 after a stop."""
        if not isinstance(process, MultiscaleFlow):
            return 1
        return process.decomposition.shrinkage[len(self.stages(process)) - 1]

    def size(self, process: Process, size: Size, factor: int = 1) -> Size:
        """Return the size in pixels of what becomes of whole pictures: smaller after a stop.

        Args:
            process: that the model was trained with.
            size: height and width in pixels of whole pictures.
            factor: of the codec.

        Raises:
            InputError: scales whose sizes are not whole.
        """
        if not isinstance(process, MultiscaleFlow):
            return size
        cells = process.sizes(size, factor)
        height, width = cells[len(self.stages(process)) - 1]
        return height * factor, width * factor

    def describe(self, process: Process | None = None) -> dict[str, Any]:
        """Return solver, steps and the settings that mean something to it, ready for JSON."""
        if isinstance(process, MultiscaleFlow):
            stages = self.stages(process)
            return {
                "solver": self.solver,
                "steps": sum(stage.steps for stage in stages),
                "stage_steps": [stage.steps for stage in stages],
                "thresholds": [stage.end[-1] for stage in stages[:-1]],
                "stop_scale": self.stop_scale,
                "evaluations": count_staged_evaluations(self.solver, stages),
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
            scales: whether the process is "dfm". In its stages the first steps of a scale cannot be
                left out, for others move in them.
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
        if isinstance(process, MultiscaleFlow):
            if self.solver not in SOLVERS:
                raise InputError(
                    "expected a solver of fixed cost for a model trained with the process dfm, got "
                    f"{self.solver}; choose {', '.join(SOLVERS)}"
                )
            if (self.shift, self.last_step) != (1.0, None):
                raise InputError(
                    "expected equal steps in each stage of the process dfm, got shift "
                    f"{self.shift} and last-step {self.last_step}; leave them out"
                )
            self.stages(process)
            return
        for name in STAGES:
            if getattr(self, name):
                raise InputError(
                    f"expected a model trained with the process dfm for {name.replace('_', '-')}, "
                    f"got one without scales; leave it out"
                )
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
        model: Denoiser,
        guide: Guide,
        noise: Float[Tensor, "B C H W"],
        labels: Int[Tensor, " B"],
        draw: Draw,
        callback: Callback | None = None,
        begin: float = 0.0,
    ) -> Float[Tensor, "B C _ _"]:
        """Return data in model space, smaller than the noise only after a `stop_scale`.

        Args:
            process: that the model was trained with.
            model: in the process's own time; of scales for the process "dfm".
            guide: puts guidance around it.
            noise: to start from.
            labels: class labels, `num_classes` for none.
            draw: from the number of a step, from 1, to its noise; only random solvers ask for it,
                and scales, which are more numbers than a picture.
            callback: told of every step, with the running state; of scales, see `sample_staged`.
            begin: steps of a grid that start before this time are left out, and the noise stays as
                it is; of an adaptive solver, a searched table and scales none are.

        Raises:
            InputError: a solver that needs another process or a package that is missing.
        """
        self.check_process(process)
        if isinstance(process, MultiscaleFlow):
            return sample_staged(
                cast(ScalesNetwork, model),
                process,
                noise,
                labels,
                self.stages(process),
                self.solver,
                draw=draw,
                guide=lambda denoiser: guide(denoiser, None),
                callback=callback,
            )
        if isinstance(process, DDPM) and self.solver in ANCESTRAL_SOLVERS:
            chain = guide(model, process.flow_time)
            steps, clip = self.steps, self.clip
            if self.solver == "ddpm":
                return ancestral(
                    chain, process, noise, labels, steps, draw, clip=clip, callback=callback
                )
            return ddim(
                chain,
                process,
                noise,
                labels,
                steps,
                draw,
                eta=self.eta,
                clip=clip,
                callback=callback,
            )
        velocity, schedule = guide(process.as_prediction(model, "velocity"), None), process.schedule
        grid, solver = self.grid(), self.solver
        if self.table is not None:
            return integrate(velocity, noise, labels, grid, self.table.solver, callback)
        early = sum(time < begin for time in grid)
        grid = grid[min(early, len(grid) - 2) :]
        if solver in SOLVERS:
            return integrate(velocity, noise, labels, grid, solver, callback)
        if solver in EXPONENTIAL_SOLVERS:
            return integrate_exponential(velocity, schedule, noise, labels, grid, solver, callback)
        if solver in SDE_SOLVERS:
            return integrate_sde(
                velocity,
                schedule,
                noise,
                labels,
                grid,
                solver,
                draw=draw,
                diffusion=self.diffusion,
                strength=self.strength,
                last=self.last,
                callback=callback,
            )
        state = integrate_adaptive(velocity, noise, labels, atol=self.atol, rtol=self.rtol).state
        if callback is not None:
            callback(1, 1, state)
        return state
