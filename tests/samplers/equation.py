"""Equations whose answers are known, to measure solvers on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convflow.processes.contract import Field
from convflow.processes.flow import FlowMatching
from convflow.processes.schedule import LINEAR, Schedule
from convflow.samplers.solver import Solver
from tests.cases import exact

START = 2.0
RATES = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
LABELS = torch.zeros(1, dtype=torch.int64)


def start() -> Tensor:
    return torch.full((1, 1, 1, 4), START, dtype=torch.float64)


def field() -> Callable[..., Tensor]:
    """The Denoiser of dx/dt = x cos(k t) + 1 / (1 + t), nowhere special, for four k."""
    return exact(lambda x, t: x * torch.cos(RATES * t) + 1 / (1 + t))


def distance(state: Tensor, t: float = 1.0) -> float:
    """How far a state is from where that goes from `START`.

    Variation of constants, its integral exact to rounding; the root mean square of four errors,
    since one alone may happen to be zero.
    """
    nodes, weights = np.polynomial.legendre.leggauss(40)
    s, k = t * (nodes + 1) / 2, RATES.numpy()[:, None]
    inner = (weights * np.exp(-np.sin(k * s) / k) / (1 + s)).sum(1) * t / 2
    answer = np.exp(np.sin(k[:, 0] * t) / k[:, 0]) * (START + inner)
    return float(np.sqrt(np.mean((state.flatten().numpy() - answer) ** 2)))


def no_noise(step: int) -> Tensor:
    return torch.zeros(())


def solve(
    solver: Solver,
    model: Callable[..., Tensor],
    noise: Tensor,
    labels: Tensor,
    schedule: Schedule = LINEAR,
    *,
    grid: Sequence[float] = (),
    draw: Callable[[int], Tensor] = no_noise,
    callback: Any = None,
) -> Tensor:
    """Where a solver brings states that move with the velocity of a model, on times of its own."""
    if grid:
        object.__setattr__(solver, "grid", lambda steps, begin: list(grid))
    process = FlowMatching(schedule=schedule)
    return solver.run(process, lambda field_of: Field(model), noise, labels, draw, callback)


def rough(steps: int) -> list[float]:
    """A grid whose steps are short and long in turn, one to three."""
    lengths = np.tile([1.0, 3.0], steps // 2)
    return [0.0, *np.cumsum(lengths / lengths.sum()).tolist()]


def order(steps: Sequence[int], errors: Sequence[float]) -> float:
    """The slope of log error over log step length."""
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


class Normal:
    """Data of independent numbers from normal distributions of different widths, along the last
    axis, and what a perfect network would say of them."""

    mean = 0.7
    stds = torch.tensor([0.2, 0.4, 0.9], dtype=torch.float64)

    def __init__(self, schedule: Schedule):
        self.schedule, self.calls = schedule, 0

    def at(self, time: float) -> tuple[Tensor, Tensor]:
        """The means and variances of x_t."""
        t = torch.tensor(time, dtype=torch.float64)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        variance = (alpha * self.stds).square() + sigma.square()
        return (alpha * self.mean).expand_as(variance), variance

    def start(self, batch: int, time: float) -> Tensor:
        """Samples of x_t, random but for their first and second moments, which are exact."""
        mean, variance = self.at(time)
        x = torch.randn(batch, 1, 1, len(self.stds), dtype=torch.float64)
        x = (x - x.mean(0)) / x.std(0, correction=0)
        return mean + variance.sqrt() * x

    def data(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The expected data."""
        t = t.view(-1, 1, 1, 1)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        gain = alpha * self.stds**2 / ((alpha * self.stds).square() + sigma.square())
        return self.mean + gain * (x - alpha * self.mean)

    def noise(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The expected noise."""
        alpha, sigma = (f(t.view(-1, 1, 1, 1)) for f in (self.schedule.alpha, self.schedule.sigma))
        spread = (alpha * self.stds).square() + sigma.square()
        return sigma * (x - alpha * self.mean) / spread

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The velocity: of the expected data and noise."""
        self.calls += 1
        rates = (
            f(t.view(-1, 1, 1, 1)) for f in (self.schedule.alpha_rate, self.schedule.sigma_rate)
        )
        of_data, of_noise = rates
        return of_data * self.data(x, t, y) + of_noise * self.noise(x, t, y)
