"""Solvers of fixed cost as a scheduler of diffusers: Euler, Heun, Adams-Bashforth and others.

`single_file` writes this class, with the coefficients of the solvers, into a folder for diffusers.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from convflow.samplers.ode import SCHEMES, _advance, time_grid


class FlowScheduler(SchedulerMixin, ConfigMixin):
    """Solves dx/dt = velocity from noise (t = 0) to data (t = 1).

    It counts as `FlowMatchEulerDiscreteScheduler` does: a timestep is 1000 (1 - t), the model
    output is minus the velocity. `timesteps` are on the CPU in float64, one for each evaluation.

    Args:
        solver: euler, heun, midpoint, rk3, rk4, or a multistep solver such as ab2.
        shift: above 1 the steps gather near noise.
        last_step: length of the last step in flow time; None treats all steps alike.
    """

    order = 1

    @register_to_config
    def __init__(
        self, solver: str = "euler", shift: float = 1.0, last_step: float | None = None
    ) -> None:
        self.scheme = SCHEMES[solver]
        self.set_timesteps(1 if last_step is None else 2)

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Begin a run of so many steps."""
        config: Any = self.config
        self.num_inference_steps = num_inference_steps
        self.grid = time_grid(num_inference_steps, shift=config.shift, last_step=config.last_step)
        times = [
            (1 - fraction) * self.grid[step] + fraction * self.grid[step + 1]
            for step in range(num_inference_steps)
            for fraction in self.scheme.step(self.grid, step).c
        ]
        self.timesteps = 1000 * (1 - torch.tensor(times, dtype=torch.float64))
        self._step, self._start = 0, torch.empty(0)
        self._slopes: list[Tensor] = []
        self._earlier: list[Tensor] = []

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True
    ) -> SchedulerOutput | tuple[Tensor]:
        """Return where the model is to be asked next, or the state at the end of a step.

        Args:
            model_output: minus the velocity at `sample`.
            timestep: the next of `timesteps`; they are taken in order.
            sample: the state that the model was shown.
            return_dict: whether an output of diffusers comes back, else a tuple.
        """
        if not self._slopes:
            self._start = sample
        self._slopes.append(-model_output.to(sample.dtype))
        tableau = self.scheme.step(self.grid, self._step)
        length = self.grid[self._step + 1] - self.grid[self._step]
        if (stage := len(self._slopes)) < len(tableau.b):
            moved = _advance(self._start, self._slopes, tableau.a[stage], length)
        else:
            moved = _advance(self._start, self._slopes, tableau.b, length)
            moved = _advance(moved, self._earlier[: len(tableau.past)], tableau.past, length)
            self._earlier = [self._slopes[0], *self._earlier][: self.scheme.depth]
            self._slopes, self._step = [], self._step + 1
        return SchedulerOutput(prev_sample=moved) if return_dict else (moved,)
