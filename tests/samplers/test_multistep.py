"""Adams-Bashforth on any grid, the published form, and tables read from files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convflow.samplers.multistep import MULTISTEP, adams_weights, read_table, write_table
from convflow.samplers.ode import integrate, time_grid
from convflow.samplers.tableaus import RUNGE_KUTTA, count_evaluations
from convflow.types import InputError
from tests.cases import exact
from tests.samplers.equation import LABELS, distance, field, order, rough, start
from tests.tolerance import assert_close_rms

KNOWN = {
    1: [1],
    2: [3 / 2, -1 / 2],
    3: np.array([23, -16, 5]) / 12,
    4: np.array([55, -59, 37, -9]) / 24,
}
TABLE = {"times": [0, 0.2, 0.5, 1], "coefficients": [[1], [-0.5, 1.5], [0.25, -1, 1.75]]}


@pytest.mark.parametrize("order", KNOWN)
def test_equal_steps_give_the_known_coefficients(order):
    assert adams_weights(time_grid(8), 5, order) == pytest.approx(KNOWN[order], abs=1e-12)


@given(st.lists(st.floats(0.05, 5), min_size=4, max_size=8), st.integers(1, 4))
def test_polynomials_are_integrated_exactly_on_any_grid(lengths, order):
    grid = np.cumsum([0, *lengths])
    step = len(lengths) - 1
    weights = adams_weights(grid.tolist(), step, order)
    for power in range(order):
        slopes = (grid[step - np.arange(order)] - grid[step]) ** power
        whole = lengths[-1] ** (power + 1) / (power + 1)
        assert lengths[-1] * slopes @ np.array(weights) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("name", ["ab2", "ab3", "ab4"])
def test_the_start_is_one_step_of_the_same_order(name):
    solver = MULTISTEP[name]
    for i in range(solver.order - 1):
        start_rule = solver.step(time_grid(9), i)
        assert any(
            start_rule == rule.step([], 0) and rule.order == solver.order
            for rule in RUNGE_KUTTA.values()
        )
    grid = time_grid(50, last_step=0.04)
    assert count_evaluations(solver, grid) == 50 + (solver.order - 1) ** 2
    assert count_evaluations(solver, time_grid(1)) == solver.order


@pytest.mark.parametrize("order", [2, 3, 4])
def test_the_published_form_never_sees_the_grid_and_calls_once_a_step(order):
    solver = MULTISTEP[f"adams{order}"]
    for grid in (time_grid(9), time_grid(9, shift=4.0), time_grid(9, last_step=0.04)):
        for i in range(9):
            rule = solver.step(grid, i)
            assert (*rule.b, *rule.past) == pytest.approx(KNOWN[min(order, i + 1)], abs=1e-12)
    assert count_evaluations(solver, time_grid(9)) == 9


def test_equal_steps_make_both_forms_the_same_after_the_start():
    grid = time_grid(9)
    for n in (2, 3, 4):
        for i in range(n - 1, 9):
            ours, published = (MULTISTEP[f"{kind}{n}"].step(grid, i) for kind in ("ab", "adams"))
            assert ours.b + ours.past == pytest.approx(published.b + published.past, abs=1e-12)


@pytest.mark.parametrize("name", ["adams2", "adams3", "adams4"])
def test_rough_steps_leave_the_published_form_of_order_1(name):
    steps = [64, 128, 256]
    errors = [distance(integrate(field(), start(), LABELS, rough(n), name)) for n in steps]
    assert order(steps, errors) == pytest.approx(1, abs=0.2)


def test_a_table_by_hand():
    table = read_table(TABLE)
    model = exact(lambda x, t: x + t)
    x = [3.0]
    slopes = []
    for i, row in enumerate(TABLE["coefficients"]):
        slopes.append(x[-1] + TABLE["times"][i])
        length = TABLE["times"][i + 1] - TABLE["times"][i]
        x.append(x[-1] + length * sum(c * v for c, v in zip(row, slopes, strict=True)))
    noise = torch.full((1, 1, 1, 1), 3.0, dtype=torch.float64)
    out = integrate(model, noise, LABELS, table.times, table.solver)
    assert out.item() == pytest.approx(x[-1], rel=1e-12)
    assert model.calls == 3 == count_evaluations(table.solver, table.times)


def test_adams_as_a_table_is_adams():
    grid = time_grid(6, shift=2.0)
    rows = [adams_weights(grid, i, min(i + 1, 3))[::-1] for i in range(6)]
    rows = [[0.0] * (i + 1 - len(row)) + list(row) for i, row in enumerate(rows)]
    table = read_table({"times": grid, "coefficients": rows})
    one = integrate(field(), start(), LABELS, table.times, table.solver)
    x, slopes, model = start(), [], field()
    for i in range(6):
        slopes.insert(0, model(x, torch.tensor([grid[i]], dtype=torch.float64), LABELS))
        weights = adams_weights(grid, i, min(i + 1, 3))
        x = x + (grid[i + 1] - grid[i]) * sum(w * v for w, v in zip(weights, slopes, strict=False))
    assert_close_rms(one, x)


def test_a_table_comes_back_from_its_file(tmp_path):
    table = read_table(TABLE)
    path = tmp_path / "solvers" / "steps_3.json"
    write_table(path, table, guidance=1.5)
    assert read_table(path) == table
    assert json.loads(path.read_text())["guidance"] == 1.5


def test_lengths_and_zeros_above_the_diagonal_are_understood():
    square = [[1, 0, 0], [-0.5, 1.5, 0], [0.25, -1, 1.75]]
    given = read_table({"steps": [0.2, 0.3, 0.5], "coefficients": square})
    assert given.coefficients == read_table(TABLE).coefficients
    assert given.times == pytest.approx(TABLE["times"])
    assert given.times[-1] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": None}, 'lists of finite numbers "times"'),
        ({"times": "0,1"}, "lists of finite numbers"),
        ({"times": [0, 0.2, float("nan"), 1]}, "lists of finite numbers"),
        ({"coefficients": [[1], [True, 0], [0, 0, 1]]}, "lists of finite numbers"),
        ({"coefficients": [[1], [], [0, 0, 1]]}, "lists of finite numbers"),
        ({"coefficients": 3}, "lists of finite numbers"),
        ({"times": [0, 0.5, 0.5, 1]}, "times that rise from 0 to 1"),
        ({"times": [0, 0.2, 0.5, 0.9]}, "times that rise from 0 to 1"),
        ({"times": [0.1, 0.2, 0.5, 1]}, "times that rise from 0 to 1"),
        ({"times": [0, 0.2, 0.3, 0.5, 1]}, "expected a row of 1, 2, ... 4 coefficients"),
        ({"coefficients": [[1], [1], [0, 0, 1]]}, "got rows of [1, 1, 3]"),
        ({"coefficients": [[1, 1], [0, 1], [0, 0, 1]]}, "on and below the diagonal"),
        ({"coefficients": [[1], [0.2, 0.7], [0, 0, 1]]}, "sum to 1 in each row, got [0.2, 0.7]"),
    ],
)
def test_what_is_no_table_is_refused(change, message, tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps(TABLE | change))
    for source in (TABLE | change, path):
        with pytest.raises(InputError) as caught:
            read_table(source)
        assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_table_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="found no such file"):
        read_table(tmp_path / "none.json")
