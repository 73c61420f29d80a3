"""Exponential integrators, DPM-Solver++ (Lu et al. 2022) and UniPC (Zhao et al. 2023).

They are run by the schedulers of diffusers, around any Denoiser and schedule.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from convflow.processes.contract import Field, MoreNoise, Process, Stage
from convflow.processes.prediction import convert
from convflow.processes.schedule import Schedule
from convflow.samplers.ode import Callback, times_like
from convflow.samplers.solver import GridSolver
from convflow.types import Denoiser, InputError, unknown_name

EXPONENTIAL_SOLVERS: dict[str, tuple[str, str, int]] = {
    "dpm++": ("scheduling_dpmsolver_multistep", "DPMSolverMultistepScheduler", 2),
    "dpm++3": ("scheduling_dpmsolver_multistep", "DPMSolverMultistepScheduler", 3),
    "unipc": ("scheduling_unipc_multistep", "UniPCMultistepScheduler", 2),
    "unipc3": ("scheduling_unipc_multistep", "UniPCMultistepScheduler", 3),
}
"""Name: module and class of diffusers, and the order of a step well inside; the first and the last
are of order 1, so that the whole is of order 2. Each calls the model once a step."""

MOST_NOISE = 1 - 1e-6
"""The largest share of noise that diffusers is told of; at 1 its log-signal has no bound."""


@dataclass(frozen=True)
class Exponential(GridSolver):
    """An exponential integrator, named in `EXPONENTIAL_SOLVERS`; see `integrate_exponential`."""

    kind: str = "dpm++"

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
        grid = self.grid(stage.steps, field.begin)
        return integrate_exponential(field, process.path, x, labels, grid, self.kind, callback)


@torch.no_grad()
def integrate_exponential(
    model: Denoiser,
    schedule: Schedule,
    noise: Float[Tensor, "B C H W"],
    labels: Int[Tensor, " B"],
    grid: Sequence[float],
    solver: str = "dpm++",
    callback: Callback | None = None,
) -> Float[Tensor, "B C H W"]:
    """Return the state at the end of `grid`, starting from `noise` at its beginning.

    These solvers see a schedule through sigma / alpha alone, so that x / (alpha + sigma) lies on
    the straight path with sigma / (alpha + sigma) of noise whatever the schedule was; there they
    run, given the data that the model predicts. Sums are kept in float32.

    Args:
        model: predicts the velocity.
        schedule: of the process.
        noise: the state at time `grid[0]`.
        labels: class labels, `num_classes` for none.
        grid: increasing times, see `time_grid`.
        solver: a name in `EXPONENTIAL_SOLVERS`.
        callback: told of every step, for progress bars and previews.

    Raises:
        InputError: an unknown solver, or diffusers is missing.
    """
    scheduler = _scheduler(solver)
    times = torch.tensor(grid, dtype=torch.float64)
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    size, steps = alpha + sigma, len(grid) - 1
    scheduler.set_timesteps(steps)
    scheduler.sigmas = (sigma / size).clamp(max=MOST_NOISE).float()
    scheduler.set_begin_index(0)
    straight = noise / size[0].item()
    for step, (time, scale) in enumerate(zip(grid[:-1], size.tolist(), strict=False)):
        x = straight * scale
        t = times_like(x, time)
        velocity = model(x, t, labels).to(x.dtype)
        data = convert(velocity, x, t, schedule, "velocity", "data")
        straight = scheduler.step(data, scheduler.timesteps[step], straight).prev_sample
        if callback is not None:
            callback(step + 1, steps, straight * size[step + 1].item())
    return straight * size[-1].item()


def _scheduler(solver: str) -> Any:
    if solver not in EXPONENTIAL_SOLVERS:
        raise InputError(unknown_name("solver", solver, EXPONENTIAL_SOLVERS))
    module, name, order = EXPONENTIAL_SOLVERS[solver]
    try:
        found = importlib.import_module(f"diffusers.schedulers.{module}")
    except ImportError as error:
        raise InputError(
            f"expected diffusers for the solver {solver}, found none that works; "
            "pip install convflow[diffusers]"
        ) from error
    return getattr(found, name)(
        solver_order=order, prediction_type="sample", use_flow_sigmas=True, final_sigmas_type="zero"
    )
