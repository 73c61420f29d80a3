"""Search for a solver of few steps: times and coefficients fitted to a teacher of many steps.

Wang et al. 2025 (DS-Solver): N step lengths and a lower triangle of coefficients, N (N + 1) / 2
numbers in all, found on a few batches; they serve other noise, and often other networks.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from convflow.processes.contract import Field, Process
from convflow.samplers.exponential import EXPONENTIAL_SOLVERS, Exponential
from convflow.samplers.multistep import CoefficientTable, adams_weights
from convflow.samplers.ode import SCHEMES, integrate, time_grid
from convflow.samplers.tableaus import Scheme, count_evaluations
from convflow.types import Denoiser, InputError

SHIFTS = (0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
"""Time shifts of the grids that the search may begin with."""

TEACHER = "ab4"
RATE = 0.01
"""Adam's first learning rate, of logarithms of step lengths and of coefficients; falls to 0."""


class TeacherBatch(NamedTuple):
    """Noise, its labels, and where the teacher ends up."""

    noise: Float[Tensor, "B C *F H W"]
    labels: Int[Tensor, " B"]
    goal: Float[Tensor, "B C *F H W"]


def teach(
    model: Denoiser, starts: Sequence[tuple[Tensor, Tensor]], steps: int = 100
) -> list[TeacherBatch]:
    """Return batches with the ends that a teacher of many steps reaches, order 4.

    Args:
        model: predicts the velocity.
        starts: noise and labels of each batch.
        steps: of the teacher.
    """
    grid = time_grid(steps)
    return [TeacherBatch(x, y, integrate(model, x, y, grid, TEACHER)) for x, y in starts]


def search(
    model: Denoiser,
    batches: Sequence[TeacherBatch],
    held_out: Sequence[TeacherBatch],
    steps: int,
    *,
    iterations: int = 200,
    progress: Callable[[int, float], None] | None = None,
) -> CoefficientTable:
    """Return the table of `steps` calls of the network whose ends are nearest to the teacher's.

    It begins with the best Adams-Bashforth on the best of a few grids. Adam then lowers the mean
    squared distance of the ends, with gradients through the network, which is recomputed in the
    backward pass to save memory. What is best on the held-out batches is kept, the beginning
    included, so that the result is never worse than that.

    Args:
        model: predicts the velocity. Its parameters should need no gradients.
        batches: to fit, one an iteration, in turn; from `teach`.
        held_out: other noise, to choose by; report errors on yet other noise, see `compare`.
        steps: N, at least 2.

    Other arguments:
        iterations: of Adam.
        progress: told the number of each iteration and the least error so far.

    Raises:
        InputError: no batches, fewer than two steps or a negative number of iterations.
    """
    if steps < 2 or iterations < 0 or not batches or not held_out:
        raise InputError(
            "expected at least 2 steps, 0 iterations, a batch to fit and one held out, got "
            f"{steps}, {iterations}, {len(batches)} and {len(held_out)}; give more"
        )
    grids = [time_grid(steps, shift=shift) for shift in SHIFTS]
    beginnings = [adams_table(grid, order) for grid in grids for order in (1, 2, 3, 4)]
    best = min(beginnings, key=lambda table: error_of(model, batches, table.times, table.solver))
    least = error_of(model, held_out, best.times, best.solver)
    logits, lower = _parameters(best)
    optimizer = torch.optim.Adam([logits, lower], lr=RATE)
    for i in range(iterations):
        optimizer.param_groups[0]["lr"] = RATE * (1 - i / iterations)
        batch = batches[i % len(batches)]
        with torch.enable_grad():
            end = _run(model, batch, logits, lower)
            loss = (end - batch.goal).square().mean() / batch.goal.square().mean()
            logits.grad, lower.grad = torch.autograd.grad(loss, [logits, lower])
        optimizer.step()
        if (i + 1) % max(iterations // 20, 1) == 0:
            table = _table(logits, lower)
            error = error_of(model, held_out, table.times, table.solver)
            best, least = (table, error) if error < least else (best, least)
        if progress is not None:
            progress(i + 1, least)
    return best


def compare(
    model: Denoiser,
    batches: Sequence[TeacherBatch],
    table: CoefficientTable,
    process: Process | None = None,
) -> dict[str, tuple[int, float]]:
    """Return calls and error of a table, as "searched", and of others with as many calls.

    These are the solvers of the same equation at a fixed cost, with as many equal steps as the
    calls allow; one that cannot do with so few is left out. The error is rms(end - the teacher's)
    as a fraction of rms(the teacher's).

    Args:
        model: predicts the velocity.
        batches: of noise that the search has not seen, from `teach`.
        table: from `search`.
        process: that the model was trained with; with it, and with diffusers, the exponential
            solvers too.
    """
    evaluations = len(table.coefficients)
    found = {"searched": (evaluations, error_of(model, batches, table.times, table.solver))}
    for name, solver in SCHEMES.items():
        grids = [time_grid(n) for n in range(1, evaluations + 1)]
        fitting = [grid for grid in grids if count_evaluations(solver, grid) <= evaluations]
        if fitting:
            calls = count_evaluations(solver, fitting[-1])
            found[name] = (calls, error_of(model, batches, fitting[-1], solver))
    if process is not None and importlib.util.find_spec("diffusers"):
        for name in EXPONENTIAL_SOLVERS:
            integrator = Exponential(name, evaluations)
            run = partial(integrator.run, process, lambda _: Field(model), draw=_draw_nothing)
            found[name] = (evaluations, _error(batches, run))
    return found


def _draw_nothing(step: int) -> Tensor:
    raise AssertionError("solvers of the ODE draw no noise")


def error_of(
    model: Denoiser, batches: Sequence[TeacherBatch], grid: Sequence[float], solver: str | Scheme
) -> float:
    """Return rms(end - goal) / rms(goal) of a solver over batches; infinite where it diverges."""
    return _error(batches, partial(integrate, model, grid=grid, solver=solver))


def _error(batches: Sequence[TeacherBatch], run: Callable[[Tensor, Tensor], Tensor]) -> float:
    error = size = 0.0
    for noise, labels, goal in batches:
        end = run(noise, labels)
        error += (end - goal).square().sum().item()
        size += goal.square().sum().item()
    ratio = (error / size) ** 0.5 if size else 0.0
    return ratio if ratio < float("inf") else float("inf")


def adams_table(grid: Sequence[float], order: int) -> CoefficientTable:
    """Return Adams-Bashforth as a table: the order grows with the steps up to `order`."""
    rows = []
    for i in range(len(grid) - 1):
        weights = adams_weights(grid, i, min(order, i + 1))[::-1]
        rows.append((*[0.0] * (i + 1 - len(weights)), *weights))
    return CoefficientTable(tuple(grid), tuple(rows))


def _parameters(table: CoefficientTable) -> tuple[Tensor, Tensor]:
    """Logarithms of the step lengths, and the coefficients below the diagonal, as leaves."""
    lengths = torch.tensor([b - a for a, b in itertools.pairwise(table.times)], dtype=torch.float64)
    below = [number for row in table.coefficients for number in row[:-1]]
    leaves = lengths.log(), torch.tensor(below, dtype=torch.float64)
    return leaves[0].requires_grad_(), leaves[1].requires_grad_()


def _rows(lower: Tensor, steps: int) -> list[Tensor]:
    """The coefficients of each step; the last of each makes its sum 1."""
    parts = lower.split(list(range(steps)))
    return [torch.cat([part, 1 - part.sum()[None]]) for part in parts]


def _table(logits: Tensor, lower: Tensor) -> CoefficientTable:
    lengths = logits.detach().softmax(0).tolist()
    times = list(itertools.accumulate(lengths, initial=0.0))
    rows = _rows(lower.detach(), len(lengths))
    return CoefficientTable((*times[:-1], 1.0), tuple(tuple(row.tolist()) for row in rows))


def _run(model: Denoiser, batch: TeacherBatch, logits: Tensor, lower: Tensor) -> Tensor:
    """Integrate with gradients to the numbers of the table; as `integrate` does with its solver."""
    x, slopes = batch.noise, list[Tensor]()
    lengths = logits.softmax(0)
    times = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    for time, length, row in zip(times[:-1], lengths, _rows(lower, len(lengths)), strict=True):
        t = time.to(x).expand(len(x))
        slopes.append(checkpoint(model, x, t, batch.labels, use_reentrant=False).to(x.dtype))
        for slope, weight in zip(slopes, row * length, strict=True):
            x = x + weight.to(x) * slope
    return x
