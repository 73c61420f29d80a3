"""Solvers of the probability-flow ODE dx/dt = model(x, t, y), from noise to data.

Each step of each solver is a row of numbers (`tableaus.py`, `multistep.py`); one loop runs all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from convflow.processes.flow import shift_times
from convflow.samplers.multistep import MULTISTEP
from convflow.samplers.tableaus import RUNGE_KUTTA, Scheme
from convflow.types import Denoiser, InputError, check_name

Callback = Callable[[int, int, Tensor], None]
"""Called after each step with its number from 1, the number of steps, and the state."""


SCHEMES: dict[str, Scheme] = RUNGE_KUTTA | MULTISTEP
"""All solvers of fixed cost by name."""


MOST_STEPS = 100_000


def time_grid(steps: int, *, shift: float = 1.0, last_step: float | None = None) -> list[float]:
    """Return `steps + 1` increasing times from 0 (noise) to 1 (data).

    Args:
        steps: number of solver steps, from 1 to `MOST_STEPS`.
        shift: s > 0; above 1 the steps gather near noise, t' = t / (t + (1 - t) s).
        last_step: length of the last step, in (0, 1); the others share the rest as `shift` says.
            FlowDCN and SiT publish 0.04. None treats all steps alike.

    Raises:
        InputError: a number outside its range.
    """
    if steps < 1 or not 0 < shift < math.inf or not (last_step is None or 0 < last_step < 1):
        raise InputError(
            "expected steps >= 1, a finite shift > 0 and last_step in (0, 1) or none, "
            f"got steps {steps}, shift {shift}, last_step {last_step}"
        )
    if steps > MOST_STEPS:
        raise InputError(f"expected at most {MOST_STEPS:,} steps, got {steps}; take fewer")
    if last_step is None:
        return [shift_times(i / steps, shift) for i in range(steps + 1)]
    if steps == 1:
        raise InputError("expected at least 2 steps with a last_step, got 1; leave last_step out")
    times = [shift_times(i / (steps - 1), shift) * (1 - last_step) for i in range(steps)]
    return [*times, 1.0]


def times_like(x: Float[Tensor, B * N], time: float) -> Float[Tensor, " B"]:
    """Return a time for every sample, in float32 at least: half precision rounds step numbers."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.full((len(x),), time, dtype=dtype, device=x.device)


@torch.no_grad()
def integrate(
    model: Denoiser,
    noise: Float[Tensor, "B C *F H W"],
    labels: Int[Tensor, " B"],
    grid: Sequence[float],
    solver: str | Scheme = "euler",
    callback: Callback | None = None,
) -> Float[Tensor, "B C *F H W"]:
    """Return the state at the end of `grid`, starting from `noise` at its beginning.

    Args:
        model: predicts the velocity.
        noise: the state at time `grid[0]`; the state is kept in its dtype.
        labels: class labels, `num_classes` for none.
        grid: increasing times, see `time_grid`.
        solver: a name in `SCHEMES`, or a solver such as a `Table`'s; `count_evaluations` tells how
            often it calls the model.
        callback: told of every step, for progress bars and previews.

    Raises:
        InputError: an unknown solver.
    """
    if isinstance(solver, str):
        check_name("solver", solver, SCHEMES)
        solver = SCHEMES[solver]
    x, earlier = noise, list[Tensor]()
    for step, (start, end) in enumerate(itertools.pairwise(grid)):
        tableau, length = solver.step(grid, step), end - start
        slopes: list[Tensor] = []
        for row, fraction in zip(tableau.a, tableau.c, strict=True):
            stage = _advance(x, slopes, row, length)
            # This sum ends at `end` exactly, `start + fraction * length` just beside it.
            t = times_like(x, (1 - fraction) * start + fraction * end)
            slopes.append(model(stage, t, labels).to(x.dtype))
        x = _advance(x, slopes, tableau.b, length)
        x = _advance(x, earlier[: len(tableau.past)], tableau.past, length)
        earlier = [slopes[0], *earlier][: solver.depth]
        if callback is not None:
            callback(step + 1, len(grid) - 1, x)
    return x


def _advance(
    x: Tensor, slopes: Sequence[Tensor], weights: Sequence[float], length: float
) -> Tensor:
    # In float32 at least: half precision rounds alpha.
    moved = x.to(torch.promote_types(x.dtype, torch.float32))
    for slope, weight in zip(slopes, weights, strict=True):
        if weight:
            moved = torch.add(moved, slope, alpha=weight * length)
    return moved.to(x.dtype)
