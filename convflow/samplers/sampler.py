"""Any sampler by name: one table of solvers, one function that runs them on any process."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from convflow.processes.ddpm import DDPM
from convflow.processes.process import Process
from convflow.samplers.adaptive import ADAPTIVE_SOLVERS, integrate_adaptive
from convflow.samplers.ancestral import ANCESTRAL_SOLVERS, ancestral, ddim
from convflow.samplers.exponential import EXPONENTIAL_SOLVERS, integrate_exponential
from convflow.samplers.guidance import Clock
from convflow.samplers.multistep import Table
from convflow.samplers.ode import SOLVERS, Callback, integrate, time_grid
from convflow.samplers.sde import SDE_SOLVERS, Draw, check_diffusion, integrate_sde
from convflow.types import Denoiser, InputError, check_kinds, unknown_name

Guide = Callable[[Denoiser, Clock | None], Denoiser]
"""From a Denoiser, and what turns its times into flow time, to the guided one."""

SEARCHED = "searched"

GRID = ("shift", "last_step")
OPTIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(SOLVERS, GRID),
    **dict.fromkeys(EXPONENTIAL_SOLVERS, GRID),
    **dict.fromkeys(SDE_SOLVERS, (*GRID, "diffusion", "strength", "last")),
    **dict.fromkeys(ADAPTIVE_SOLVERS, ("atol", "rtol")),
    "ddpm": ("clip",),
    "ddim": ("eta", "clip"),
    SEARCHED: (),
}
"""Every solver, and the settings of a `Sampler` that mean something to it."""


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
    table: Table | None = None

    def __post_init__(self) -> None:
        """Check the kinds, the names, and the grid."""
        check_kinds(str, solver=self.solver, diffusion=self.diffusion, last=self.last)
        check_kinds(Integral, steps=self.steps)
        check_kinds(Real, shift=self.shift, last_step=self.last_step, strength=self.strength)
        check_kinds(Real, eta=self.eta, atol=self.atol, rtol=self.rtol)
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

    def grid(self) -> list[float]:
        """Return the times of the steps; two for a solver that finds its own."""
        if self.table is not None:
            return list(self.table.times)
        return time_grid(self.steps, shift=self.shift, last_step=self.last_step)

    def describe(self) -> dict[str, Any]:
        """Return solver, steps and the settings that mean something to it, ready for JSON."""
        told: dict[str, Any] = {"solver": self.solver, "steps": len(self.grid()) - 1}
        if self.solver in ADAPTIVE_SOLVERS:
            told["steps"] = None
        if self.table is not None:
            told["table"] = self.table._asdict()
        return told | {name: getattr(self, name) for name in OPTIONS[self.solver]}

    def check_guidance(self, kind: str) -> None:
        """Raise InputError when a kind of guidance cannot act on what the solver asks for."""
        if kind == "cfg-zero" and self.solver in ANCESTRAL_SOLVERS:
            raise InputError(
                f"the guidance cfg-zero is for velocities, got the solver {self.solver}, "
                "which predicts noise; choose another of the two"
            )

    def check_process(self, process: Process) -> None:
        """Raise InputError when the solver walks a chain that the process has not."""
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
    ) -> Float[Tensor, "B C H W"]:
        """Return data in model space.

        Args:
            process: that the model was trained with.
            model: in the process's own time.
            guide: puts guidance around it.
            noise: to start from.
            labels: class labels, `num_classes` for none.
            draw: from the number of a step, from 1, to its noise; only random solvers ask for it.
            callback: told of every step.
            begin: steps of a grid that start before this time are left out, and the noise stays as
                it is; of an adaptive solver and of a searched table none are.

        Raises:
            InputError: a solver that needs another process or a package that is missing.
        """
        self.check_process(process)
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
