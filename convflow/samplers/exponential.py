"""Exponential integrators, DPM-Solver++ (Lu et al. 2022) and UniPC (Zhao et al. 2023).

They are run by the schedulers of diffusers, around any Denoiser and schedule.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from convflow.processes.prediction import convert
from convflow.samplers.ode import times_like
from convflow.samplers.solver import GridSolver, Problem
from convflow.types import InputError, check_name

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
    """An exponential integrator, named in `EXPONENTIAL_SOLVERS`.

    These solvers see a schedule through sigma / alpha alone, so that x / (alpha + sigma) lies on
    the straight path with sigma / (alpha + sigma) of noise whatever the schedule was; there they
    run, given the data that the model predicts. Sums are kept in float32.
    """

    kind: str = "dpm++"

    def solve(self, problem: Problem) -> Tensor:
        """Return the state at the end of a stage.

        Raises:
            InputError: an unknown name, or diffusers is missing.
        """
        schedule = problem.process.path
        grid = self.grid(problem.stage.steps, problem.field.begin)
        scheduler = self._scheduler()
        times = torch.tensor(grid, dtype=torch.float64)
        alpha, sigma = schedule.alpha(times), schedule.sigma(times)
        size, steps = alpha + sigma, len(grid) - 1
        scheduler.set_timesteps(steps)
        scheduler.sigmas = (sigma / size).clamp(max=MOST_NOISE).float()
        scheduler.set_begin_index(0)
        straight = problem.x / size[0].item()
        for step, (time, scale) in enumerate(zip(grid[:-1], size.tolist(), strict=False)):
            x = straight * scale
            t = times_like(x, time)
            velocity = problem.field(x, t, problem.labels).to(x.dtype)
            data = convert(velocity, x, t, schedule, "velocity", "data")
            straight = scheduler.step(data, scheduler.timesteps[step], straight).prev_sample
            problem.callback(step + 1, steps, straight * size[step + 1].item())
        return straight * size[-1].item()

    def _scheduler(self) -> Any:
        check_name("solver", self.kind, EXPONENTIAL_SOLVERS)
        module, name, order = EXPONENTIAL_SOLVERS[self.kind]
        try:
            found = getattr(importlib.import_module(f"diffusers.schedulers.{module}"), name)
        except ImportError as error:
            raise InputError(
                f"expected diffusers for the solver {self.kind}, found none that works; "
                "pip install convflow[diffusers]"
            ) from error
        more = {"use_flow_sigmas": True, "final_sigmas_type": "zero"}
        return found(solver_order=order, prediction_type="sample", **more)
