"""Solvers: their measured order, their cost, and the grids of times they step on."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convflow.samplers.ode import SCHEMES, integrate, time_grid
from convflow.samplers.tableaus import count_evaluations
from convflow.types import InputError
from tests.cases import SOLVER_NAMES, exact
from tests.samplers.equation import LABELS, distance, field, order, rough, start
from tests.tolerance import assert_close_rms

GRIDS = {"equal": time_grid, "shifted": partial(time_grid, shift=2.0), "rough": rough}


RUNS = [
    *((solver, "equal" if solver.startswith("adams") else "rough") for solver in SOLVER_NAMES),
    *((solver, grid) for solver in ("heun", "ab3") for grid in ("equal", "shifted")),
]
"""The orders of "adams" are stated for equal steps; test_multistep has the others."""


@pytest.mark.parametrize(("solver", "grid"), RUNS)
def test_the_measured_order_is_the_stated_one(solver, grid):
    steps, errors = [64, 96, 144], []
    for n in steps:
        model, times = field(), GRIDS[grid](n)
        errors.append(distance(integrate(model, start(), LABELS, times, solver)))
        assert model.calls == count_evaluations(SCHEMES[solver], times)
    assert order(steps, errors) == pytest.approx(SCHEMES[solver].order, abs=0.2)


@pytest.mark.parametrize("solver", SOLVER_NAMES)
def test_a_sample_does_not_see_its_neighbours(solver):
    noise = torch.randn(5, 1, 2, 3, dtype=torch.float64)
    labels = torch.zeros(5, dtype=torch.int64)
    model = exact(lambda x, t: torch.sin(3 * x + t))
    whole = integrate(model, noise, labels, time_grid(6), solver)
    alone = [integrate(model, noise[i : i + 1], labels[:1], time_grid(6), solver) for i in range(5)]
    assert_close_rms(whole, torch.cat(alone))


def test_euler_and_heun_by_hand():
    start, grid = torch.full((1, 1, 1, 1), 3.0, dtype=torch.float64), [0.0, 0.5]
    model = exact(lambda x, t: -2 * x + t)
    assert integrate(model, start, LABELS, grid, "euler").item() == 3 + 0.5 * -6
    heun = 3 + 0.25 * (-6 + (-2 * 0.0 + 0.5))
    assert integrate(model, start, LABELS, grid, "heun").item() == heun


@pytest.mark.parametrize("solver", SOLVER_NAMES)
def test_the_model_is_asked_at_times_within_the_grid(solver):
    seen = []
    model = exact(lambda x, t: seen.append(t.flatten().clone()) or x)
    noise = torch.zeros(2, 1, 1, 1, dtype=torch.float64)
    grid = time_grid(49, shift=1.7)
    integrate(model, noise, torch.zeros(2, dtype=torch.int64), grid, solver)
    calls = [len(SCHEMES[solver].step(grid, i).b) for i in range(49)]
    starts = torch.stack([seen[i] for i in np.cumsum([0, *calls[:-1]])])[:, 0]
    assert starts.tolist() == grid[:-1]
    assert torch.stack(seen).max() <= 1
    middles = [(a + b) / 2 for a, b in itertools.pairwise(grid)]
    assert {t.item() for t in torch.cat(seen)} <= {*grid, *middles}


def test_every_step_is_reported():
    reported = []
    noise = torch.zeros(1, 1, 1, 1)
    model = exact(lambda x, t: torch.ones_like(x))
    out = integrate(
        model,
        noise,
        LABELS,
        time_grid(4),
        "euler",
        lambda *now: reported.append((*now[:2], now[2])),
    )
    assert [step[:2] for step in reported] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [step[2].item() for step in reported] == [0.25, 0.5, 0.75, 1.0]
    assert noise.item() == 0, "the noise was changed in place"
    assert reported[-1][2].equal(out)


def test_labels_reach_the_model_and_no_gradient_leaves():
    labels = torch.tensor([4, 2])
    noise = torch.zeros(2, 1, 1, 1)

    def model(x, t, y):
        assert y.equal(labels)
        return x * torch.ones((), requires_grad=True)

    assert not integrate(model, noise, labels, time_grid(2), "heun").requires_grad


def test_a_batch_of_none_and_sums_in_the_dtype_of_the_noise():
    model = exact(lambda x, t: x.bfloat16())
    assert integrate(model, torch.zeros(0, 1, 2, 2), LABELS[:0], time_grid(2)).shape == (0, 1, 2, 2)
    assert integrate(model, torch.zeros(1, 1, 2, 2), LABELS, time_grid(2)).dtype == torch.float32


def test_a_step_of_a_half_state_has_its_length():
    """0.7 is 0.69921875 in bfloat16."""
    slope = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    x = integrate(lambda x, t, y: slope, torch.zeros_like(slope), LABELS[:1], [0.0, 0.7])
    assert x.equal((0.7 * slope.double()).bfloat16())


def test_an_unknown_solver_is_refused():
    with pytest.raises(InputError, match=r"unknown solver 'hune'; did you mean 'heun'\?"):
        integrate(exact(lambda x, t: x), torch.zeros(1, 1, 1, 1), LABELS, [0.0, 1.0], "hune")


@given(st.integers(1, 300), st.floats(1e-2, 1e2), st.one_of(st.none(), st.floats(1e-3, 0.999)))
def test_a_grid_rises_from_noise_to_data(steps, shift, last_step):
    grid = time_grid(steps, shift=shift, last_step=last_step)
    assert len(grid) == steps + 1
    assert (grid[0], grid[-1]) == (0, 1)
    assert all(a < b for a, b in itertools.pairwise(grid))


def test_plain_grids_are_even():
    assert time_grid(4) == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize(("steps", "last"), [(250, 0.04), (10, 0.1), (2, 0.04)])
def test_the_published_last_step(steps, last):
    published = np.append(np.linspace(0, 1 - last, steps), 1.0)
    assert time_grid(steps, last_step=last) == pytest.approx(published.tolist(), abs=1e-12)


def test_one_step_has_no_room_for_a_last_one():
    with pytest.raises(InputError, match="at least 2 steps with a last_step"):
        time_grid(1, last_step=0.04)


def test_the_last_step_has_its_length_whatever_the_shift():
    grid = time_grid(10, shift=3.0, last_step=0.04)
    assert len(grid) == 11
    assert grid[-1] - grid[-2] == pytest.approx(0.04)
    assert grid[1] < time_grid(10, last_step=0.04)[1]


def test_shift_follows_its_formula_and_favours_noise():
    assert time_grid(4, shift=3.0) == pytest.approx([0, 0.25 / 2.5, 0.25, 0.75 / 1.5, 1])
    assert time_grid(4, shift=0.5)[1] > 0.25


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"steps": -3},
        {"steps": 4, "shift": 0.0},
        {"steps": 4, "shift": math.inf},
        {"steps": 4, "shift": math.nan},
        {"steps": 4, "last_step": 0.0},
        {"steps": 4, "last_step": 1.0},
        {"steps": 4, "last_step": math.nan},
    ],
)
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(InputError, match="expected steps >= 1, a finite shift > 0 and last_step"):
        time_grid(**bad)
