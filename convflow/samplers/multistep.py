"""Multistep solvers: one call of the network a step, and the slopes of earlier steps.

Adams-Bashforth on any grid: Hairer, Norsett & Wanner 1993, sections III.1 and III.5. Tables found
by search, with times and coefficients of their own: Wang et al. 2025 (DS-Solver).
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convflow.samplers.tableaus import EULER, HEUN, RK3, RK4, Scheme, Tableau
from convflow.storage import read_json, write_text
from convflow.types import InputError

START = {2: HEUN, 3: RK3, 4: RK4}
"""The one-step rule of the same order that a multistep solver begins with."""

ROW_TOLERANCE = 1e-4
"""How far a row of a table may be from a sum of 1: JSON files are often rounded."""


def adams_weights(grid: Sequence[float], step: int, order: int) -> tuple[float, ...]:
    """Return the weights of the slopes at the start of this step, of the one before, and so on.

    They integrate the polynomial through the last `order` slopes exactly, whatever the lengths of
    the steps: (3/2, -1/2), (23, -16, 5) / 12 and (55, -59, 37, -9) / 24 where all are equal.

    Args:
        grid: increasing times.
        step: number of the step, from 0; at least `order - 1`.
        order: how many slopes to use.
    """
    start, end = grid[step : step + 2]
    nodes = [(grid[step - i] - start) / (end - start) for i in range(order)]
    moments = 1 / np.arange(1, order + 1)  # of s^0, s^1, ... over the step, s = 0 at its start
    return tuple(np.linalg.solve(np.vander(nodes, increasing=True).T, moments).tolist())


def adams_bashforth(order: int) -> Scheme:
    """Return the Adams-Bashforth solver of an order from 2 to 4 for any grid of times.

    The first `order - 1` steps are Runge-Kutta steps of the same order, so that the whole keeps
    it: `order` calls of the network in each of these, one in every other step.
    """

    def step(grid: Sequence[float], i: int) -> Tableau:
        if i < order - 1:
            return START[order]
        return _with_past(adams_weights(grid, i, order))

    return Scheme(order, step, order - 1)


def published_adams(order: int) -> Scheme:
    """Return the Adams solver of FlowDCN's released sampler: one call in every step.

    It differs from `adams_bashforth` in two ways. It starts with Euler, then order 2 and so on,
    which limits it to order 2. And the coefficients are those of equal steps on every grid, so
    that neighbours of unlike length leave it of order 1 (FlowDCN's last step of 0.04 too).
    """

    def step(grid: Sequence[float], i: int) -> Tableau:
        known = min(order, i + 1)
        return _with_past(adams_weights(range(known + 1), known - 1, known))

    return Scheme(2, step, order - 1)


MULTISTEP = {f"ab{order}": adams_bashforth(order) for order in (2, 3, 4)} | {
    f"adams{order}": published_adams(order) for order in (2, 3, 4)
}
"""`abN`: exact on any grid, started at its order; `adamsN`: as published."""


class CoefficientTable(NamedTuple):
    """A solver with a grid of its own: x_(i+1) = x_i + (t_(i+1) - t_i) sum_j c_ij v_j, j <= i.

    Attributes:
        times: N + 1 increasing times from 0 (noise) to 1 (data).
        coefficients: row i has i + 1 numbers that sum to 1, for the slopes v_0 to v_i.
    """

    times: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...]

    @property
    def solver(self) -> Scheme:
        """The solver to give to `integrate`, together with `times` as the grid."""
        return Scheme(
            None, lambda grid, i: _with_past(self.coefficients[i][::-1]), len(self.times) - 2
        )


def read_table(source: Path | Mapping[str, Any]) -> CoefficientTable:
    """Return a checked table of times and coefficients.

    Args:
        source: a JSON file, or its content: `{"times": [...], "coefficients": [[...], ...]}`, or
            `"steps"`, the N lengths of the steps, instead of `"times"`. Zeros above the diagonal
            may stand in the rows. Other keys are left alone.

    Raises:
        InputError: no such file, or numbers that are no such table.
    """
    if isinstance(source, Path) and not source.exists():
        raise InputError(
            f"expected the table of a searched solver at {source}, found no such file; "
            "convflow bench solvers MODEL --steps N makes one"
        )
    content = read_json(source) if isinstance(source, Path) else source
    name = str(source) if isinstance(source, Path) else "the table"
    times: Any = content.get("times")
    rows: Any = content.get("coefficients")
    if times is None and _are_numbers(content.get("steps")):
        times = list(itertools.accumulate(content["steps"], initial=0.0))
    if not (
        _are_numbers(times) and isinstance(rows, list | tuple) and all(map(_are_numbers, rows))
    ):
        raise InputError(
            f'{name}: expected lists of finite numbers "times" (or "steps") and "coefficients", '
            f"got {json.dumps(content, default=str)[:80]}; write it with `convflow bench solvers`"
        )
    close = abs(times[0]) < ROW_TOLERANCE and abs(times[-1] - 1) < ROW_TOLERANCE
    if not close or any(a >= b for a, b in itertools.pairwise(times)):
        raise InputError(
            f"{name}: expected times that rise from 0 to 1 (steps above 0 that sum to 1), "
            f"got {times}; correct them"
        )
    if len(rows) != len(times) - 1 or any(len(row) <= i for i, row in enumerate(rows)):
        raise InputError(
            f"{name}: expected a row of 1, 2, ... {len(times) - 1} coefficients for each step, "
            f"got rows of {[len(row) for row in rows]}; correct them"
        )
    for i, row in enumerate(rows):
        if any(row[i + 1 :]) or abs(sum(row) - 1) > ROW_TOLERANCE:
            raise InputError(
                f"{name}: expected coefficients on and below the diagonal that sum to 1 in each "
                f"row, got {list(row)} in row {i}; correct them"
            )
    return CoefficientTable(
        (0.0, *map(float, times[1:-1]), 1.0),
        tuple(tuple(map(float, row[: i + 1])) for i, row in enumerate(rows)),
    )


def table_path(folder: Path, steps: int) -> Path:
    """Return where the table of so many steps lies beside a model's weights."""
    return folder / "solvers" / f"steps_{steps}.json"


def write_table(path: Path, table: CoefficientTable, **more: Any) -> None:
    """Write a table as JSON, with `more` about how it came about; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(table._asdict() | more, indent=1) + "\n")


def _with_past(weights: Sequence[float]) -> Tableau:
    return EULER._replace(b=(weights[0],), past=tuple(weights[1:]))


def _are_numbers(value: Any) -> bool:
    numbers = isinstance(value, list | tuple) and len(value) > 0
    return numbers and all(
        isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in value
    )
