"""The search for a solver of one model; the command around it is in tests/cli/test_bench.py."""

from __future__ import annotations

import pytest

from convflow.bench.solvers import SolverSearch, search_solver
from convflow.codecs import PixelCodec
from convflow.pipeline import Pipeline
from convflow.types import InputError
from tests.cases import build


def test_the_best_solver_comes_first_and_the_found_one_is_among_them():
    pipe = Pipeline(build("flowdcn"), PixelCodec(), (8, 8), device="cpu")
    samples = pipe.samples(steps=2, solver="euler")
    settings = SolverSearch(2, iterations=2, teacher_steps=4, num=2, batch_size=2)
    table, compared = search_solver(pipe, samples, settings)
    assert len(table.coefficients) == 2
    errors = [error for _, error in compared.values()]
    assert errors == sorted(errors)
    assert {"searched", "euler"} <= compared.keys()


def test_a_search_that_makes_no_sense_is_refused():
    with pytest.raises(InputError, match="--steps: expected at least 2, got 1"):
        SolverSearch(1)
    with pytest.raises(InputError, match="expected at least twice the 60 of --steps, got 100"):
        SolverSearch(60)
