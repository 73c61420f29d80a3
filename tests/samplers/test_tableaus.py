"""Runge-Kutta tableaus: explicit, consistent, and of the order that their conditions say."""

from __future__ import annotations

import numpy as np
import pytest

from convflow.samplers.tableaus import RUNGE_KUTTA, count_evaluations


@pytest.mark.parametrize("name", RUNGE_KUTTA)
def test_a_tableau_is_explicit_and_meets_the_conditions_of_its_order(name):
    order, step, depth = RUNGE_KUTTA[name]
    rows, b, c, past = step([0.0, 1.0], 0)
    assert (past, depth) == ((), 0)
    assert [len(row) for row in rows] == list(range(len(b)))
    a = np.array([[*row, *[0.0] * (len(b) - len(row))] for row in rows])
    b, c = np.array(b), np.array(c)
    assert a.sum(1) == pytest.approx(c)
    conditions = [  # Hairer, Norsett & Wanner 1993, table II.2.1: order, left side, right side
        (1, b.sum(), 1),
        (2, b @ c, 1 / 2),
        (3, b @ c**2, 1 / 3),
        (3, b @ a @ c, 1 / 6),
        (4, b @ c**3, 1 / 4),
        (4, b @ (c * (a @ c)), 1 / 8),
        (4, b @ a @ c**2, 1 / 12),
        (4, b @ a @ a @ c, 1 / 24),
    ]
    for least, left, right in conditions:
        if least <= order:
            assert left == pytest.approx(right)
    assert any(
        abs(left - right) > 1e-3 for least, left, right in conditions if least == order + 1
    ) or (order == 4)


def test_the_costs_are_what_the_names_promise():
    costs = {name: count_evaluations(solver, [0, 0.5, 1]) for name, solver in RUNGE_KUTTA.items()}
    assert costs == {"euler": 2, "heun": 4, "midpoint": 4, "rk3": 6, "rk4": 8}
