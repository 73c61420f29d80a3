"""Solvers of the SDE dx = (v + w s) dt + sqrt(2 w) dW, noise to data, with velocity v and score s.

It has the marginals of the ODE dx = v dt whatever the diffusion w(t) >= 0: Ma et al. 2024 (SiT),
section 3.4 and appendix; w = (1 - t) / 2: Wang et al. 2024 (FlowDCN).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from convflow.processes.prediction import convert
from convflow.processes.schedule import Schedule
from convflow.samplers.ode import times_like
from convflow.samplers.solver import GridSolver, Problem
from convflow.settings.fields import NotNegative, doc
from convflow.types import check_name

SBDM_START = 1e-3
"""Before this time "sbdm" stays as it is there: the linear schedule's has no bound at 0. SiT starts
at this time instead."""


def _sbdm(schedule: Schedule, t: Tensor) -> Tensor:
    t = t.clamp(min=SBDM_START)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return sigma * (schedule.alpha_rate(t) / alpha * sigma - schedule.sigma_rate(t))


DIFFUSIONS: dict[str, Callable[[Schedule, Tensor], Tensor]] = {
    "constant": lambda schedule, t: torch.ones_like(t),
    "sbdm": _sbdm,
    "sigma": lambda schedule, t: schedule.sigma(t),
    "linear": lambda schedule, t: 1 - t,
    "decreasing": lambda schedule, t: (1 + torch.cos(math.pi * t)).square() / 4,
    "increasing-decreasing": lambda schedule, t: torch.sin(math.pi * t).square(),
    "flowdcn": lambda schedule, t: (1 - t) / 2,
}
"""w(t) by name. SiT: "constant", "sbdm" (the SDE of score-based models; beta / 2 for VP), "sigma"
(SiT's default), "linear", "decreasing", "increasing-decreasing"; FlowDCN's: "flowdcn"."""

SDE_SOLVERS = {"euler-maruyama": 1, "stochastic-heun": 2}
"""Weak order and calls of the model in a random step, which are the same number."""

LAST_STEPS = ("mean", "euler", "tweedie", "none")
"""What ends the path: the SDE's drift alone, the ODE's, the expected data, or a random step too."""


@dataclass(frozen=True)
class SDE(GridSolver):
    """A solver of the SDE, named in `SDE_SOLVERS`.

    A random step of length h from t, with z its noise, is x + h f(x, t) + sqrt(2 h w(t)) z in
    Euler-Maruyama, f = v + w s. Stochastic Heun takes for f the mean of both ends of the step, and
    for w too, which is of weak order 2; a step that ends at t = 1, where the score has no bound, is
    Euler-Maruyama's. (SiT's Heun adds the noise first and is of weak order 1.)

    SiT's default for the last step is "mean", FlowDCN's is "euler"; see `LAST_STEPS`. The published
    steps are 250, the last of them 0.04 long.

    Raises:
        InputError: an unknown name, or a number out of range.
    """

    kind: str = "euler-maruyama"
    diffusion: Annotated[
        str, doc("diffusion coefficient of the SDE: sigma, constant, flowdcn, ...")
    ] = "sigma"
    strength: Annotated[NotNegative, doc("factor of the SDE's diffusion; 0 gives the ODE")] = 1.0
    last: Annotated[str, doc("how the last step of the SDE goes: mean, euler, tweedie or none")] = (
        "mean"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for what, name, known in (
            ("diffusion", self.diffusion, DIFFUSIONS),
            ("last step", self.last, LAST_STEPS),
        ):
            check_name(what, name, known)

    def solve(self, problem: Problem) -> Tensor:
        """Return the state at the end of a stage.

        Raises:
            InputError: an unknown name.
        """
        check_name("SDE solver", self.kind, SDE_SOLVERS)
        grid = self.grid(problem.stage.steps, problem.field.begin)
        path, x = problem.process.path, problem.x
        for step, (start, end) in enumerate(itertools.pairwise(grid), 1):
            length = end - start
            velocity, drift, data = self._slopes(problem, x, start)
            if step == len(grid) - 1 and self.last != "none":
                ends = {"mean": x + length * drift, "euler": x + length * velocity, "tweedie": data}
                x = ends[self.last]
            else:
                heun = self.kind == "stochastic-heun" and end < 1
                weights = self._weigh(path, start) + self._weigh(path, end if heun else start)
                kick = math.sqrt(length * weights) * problem.draw(step).to(x)
                if heun:
                    ahead = self._slopes(problem, x + length * drift + kick, end)[1]
                    drift = (drift + ahead) / 2
                x = x + length * drift + kick
            problem.callback(step, len(grid) - 1, x)
        return x

    def _slopes(self, problem: Problem, x: Tensor, time: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the velocity, the SDE's drift and the expected data."""
        t, path = times_like(x, time), problem.process.path
        velocity = problem.field(x, t, problem.labels).to(x.dtype)
        score, data = (
            convert(velocity, x, t, path, "velocity", wanted).to(x.dtype)
            for wanted in ("score", "data")
        )
        full = velocity.to(t.dtype)  # half precision rounds alpha
        return velocity, torch.add(full, score, alpha=self._weigh(path, time)).to(x.dtype), data

    def _weigh(self, path: Schedule, time: float) -> float:
        t = torch.tensor(time, dtype=torch.float64)
        return self.strength * DIFFUSIONS[self.diffusion](path, t).item()
