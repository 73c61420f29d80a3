"""What a step of an ODE solver is made of, and the Runge-Kutta solvers as rows of numbers.

Butcher tableaus: Hairer, Norsett & Wanner 1993, section II.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Tableau(NamedTuple):
    """One step of length h: x + h (sum of b * slopes + sum of past * earlier slopes).

    Attributes:
        a: row i weights the slopes before stage i; stage i looks at x + h (sum of a[i] * slopes).
        b: weights the slopes of this step.
        c: times of the stages, in steps from its start.
        past: weights the first slope of the step before, of the one before that, and so on.
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    past: tuple[float, ...] = ()


class Scheme(NamedTuple):
    """A solver: the tableau of every step.

    Attributes:
        order: p, where the error falls as (length of a step)^p; None where it was not derived.
        step: from the times of all steps and a step's number, from 0, to its tableau.
        depth: how many earlier steps its tableaus look back on.
    """

    order: int | None
    step: Callable[[Sequence[float], int], Tableau]
    depth: int = 0


def count_evaluations(solver: Scheme, grid: Sequence[float]) -> int:
    """Return how often `solver` calls the network on a grid of times."""
    return sum(len(solver.step(grid, i).b) for i in range(len(grid) - 1))


EULER = Tableau(a=((),), b=(1.0,), c=(0.0,))
HEUN = Tableau(a=((), (1.0,)), b=(0.5, 0.5), c=(0.0, 1.0))
MIDPOINT = Tableau(a=((), (0.5,)), b=(0.0, 1.0), c=(0.0, 0.5))
RK3 = Tableau(a=((), (0.5,), (-1.0, 2.0)), b=(1 / 6, 2 / 3, 1 / 6), c=(0.0, 0.5, 1.0))
RK4 = Tableau(
    a=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    c=(0.0, 0.5, 0.5, 1.0),
)


def one_step(tableau: Tableau, order: int) -> Scheme:
    """Return the solver that uses one tableau for every step."""
    return Scheme(order, lambda grid, step: tableau)


RUNGE_KUTTA = {
    "euler": one_step(EULER, 1),
    "heun": one_step(HEUN, 2),
    "midpoint": one_step(MIDPOINT, 2),
    "rk3": one_step(RK3, 3),
    "rk4": one_step(RK4, 4),
}
"""Euler; Heun's and the midpoint rule of order 2; Kutta's rules of order 3 and 4."""
