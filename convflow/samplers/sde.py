"""Solvers of the SDE dx = (v + w s) dt + sqrt(2 w) dW, noise to data, with velocity v and score s.

It has the marginals of the ODE dx = v dt whatever the diffusion w(t) >= 0: Ma et al. 2024 (SiT),
section 3.4 and appendix; w = (1 - t) / 2: Wang et al. 2024 (FlowDCN).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from convflow.processes.contract import Field, MoreNoise, Process, Stage
from convflow.processes.prediction import convert
from convflow.processes.schedule import Schedule
from convflow.samplers.ode import Callback, times_like
from convflow.samplers.solver import GridSolver
from convflow.settings.fields import NotNegative, doc
from convflow.types import Denoiser, InputError, unknown_name

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
    """A solver of the SDE, named in `SDE_SOLVERS`; see `integrate_sde`.

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
        """Check names and numbers."""
        super().__post_init__()
        check_diffusion(self.diffusion, self.strength, self.last)

    def solve(
        self,
        field: Field,
        process: Process,
        x: Tensor,
        labels: Tensor,
        stage: Stage,
        draw: MoreNoise,
        callback: Callback,
    ) -> Tensor:
        """Return the state at the end of a stage."""
        return integrate_sde(
            field,
            process.path,
            x,
            labels,
            self.grid(stage.steps, field.begin),
            self.kind,
            draw=draw,
            diffusion=self.diffusion,
            strength=self.strength,
            last=self.last,
            callback=callback,
        )


@torch.no_grad()
def integrate_sde(
    model: Denoiser,
    schedule: Schedule,
    noise: Float[Tensor, "B C H W"],
    labels: Int[Tensor, " B"],
    grid: Sequence[float],
    solver: str = "euler-maruyama",
    *,
    draw: MoreNoise,
    diffusion: str = "sigma",
    strength: float = 1.0,
    last: str = "mean",
    callback: Callback | None = None,
) -> Float[Tensor, "B C H W"]:
    """Return the state at the end of `grid`, starting from `noise` at its beginning.

    A random step of length h from t, with z its noise, is x + h f(x, t) + sqrt(2 h w(t)) z in
    Euler-Maruyama, f = v + w s. Stochastic Heun takes for f the mean of both ends of the step, and
    for w too, which is of weak order 2; a step that ends at t = 1, where the score has no bound, is
    Euler-Maruyama's. (SiT's Heun adds the noise first and is of weak order 1.)

    Args:
        model: predicts the velocity.
        schedule: of the process; turns the velocity into the score.
        noise: the state at time `grid[0]`; sums are kept in its dtype.
        labels: class labels, `num_classes` for none.
        grid: increasing times; `time_grid(250, last_step=0.04)` is the published one.
        solver: a name in `SDE_SOLVERS`.

    Other arguments:
        draw: gives the noise of a step, such as `draw_noise(seed, indices, shape, step)`.
        diffusion: a name in `DIFFUSIONS`.
        strength: multiplies the diffusion; 0 gives the ODE.
        last: a name in `LAST_STEPS`, how the last step goes. "mean" is SiT's default: no noise;
            FlowDCN's is "euler".
        callback: told of every step, for progress bars and previews.

    Raises:
        InputError: an unknown name, or a strength below 0.
    """
    if solver not in SDE_SOLVERS:
        raise InputError(unknown_name("SDE solver", solver, SDE_SOLVERS))
    check_diffusion(diffusion, strength, last)

    def weigh(time: float) -> float:
        t = torch.tensor(time, dtype=torch.float64)
        return strength * DIFFUSIONS[diffusion](schedule, t).item()

    def slopes(x: Tensor, time: float) -> tuple[Tensor, Tensor, Tensor]:
        """The velocity, the SDE's drift and the expected data."""
        t = times_like(x, time)
        velocity = model(x, t, labels).to(x.dtype)
        score, data = (
            convert(velocity, x, t, schedule, "velocity", wanted).to(x.dtype)
            for wanted in ("score", "data")
        )
        full = velocity.to(t.dtype)  # half precision rounds alpha
        return velocity, torch.add(full, score, alpha=weigh(time)).to(x.dtype), data

    x, steps = noise, len(grid) - 1
    for step, (start, end) in enumerate(itertools.pairwise(grid), 1):
        length = end - start
        velocity, drift, data = slopes(x, start)
        if step == steps and last != "none":
            x = {"mean": x + length * drift, "euler": x + length * velocity, "tweedie": data}[last]
        else:
            heun = solver == "stochastic-heun" and end < 1
            variance = length * (weigh(start) + weigh(end if heun else start))
            kick = math.sqrt(variance) * draw(step).to(x)
            if heun:
                ahead = slopes(x + length * drift + kick, end)[1]
                drift = (drift + ahead) / 2
            x = x + length * drift + kick
        if callback is not None:
            callback(step, steps, x)
    return x


def check_diffusion(diffusion: str, strength: float, last: str) -> None:
    """Raise InputError unless these are settings of `integrate_sde`."""
    for kind, name, known in (
        ("diffusion", diffusion, DIFFUSIONS),
        ("last step", last, LAST_STEPS),
    ):
        if name not in known:
            raise InputError(unknown_name(kind, name, known))
    if not 0 <= strength < math.inf:
        raise InputError(f"expected a finite strength of at least 0, got {strength}; change it")
