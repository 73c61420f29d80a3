"""Words of the command line, read as settings with parts."""

from dataclasses import dataclass, field
from typing import Annotated

import pytest

from convflow.samplers.solvers import Solver, create_solver
from convflow.settings.fields import Count, doc
from convflow.settings.words import help_of, pairs_of, parts_of, read_words, rows_of, shown_at
from convflow.types import InputError


@dataclass(frozen=True)
class Job:
    """Settings with a part."""

    solver: Annotated[Solver, doc("a solver")] = field(default_factory=create_solver)
    num: Annotated[Count | None, doc("a number")] = None


def read(words):
    return read_words(Job, pairs_of(words.split()), parts_of(Job()))


def test_the_name_of_a_part_may_be_left_out():
    wanted = {"solver": "ddim", "solver.eta": 0.5, "solver.steps": 3}
    assert read("--eta 0.5 --solver ddim --solver.steps=3") == wanted
    assert read("--num none --last-step 0.04") == {"num": None, "solver.last_step": 0.04}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--solver heun --eta 0", "the solver heun has no eta; leave it out, or choose ddim"),
        ("--solver hein", "unknown solver 'hein'; did you mean 'heun'"),
        ("--stepz 3", "unknown option '--stepz'; did you mean"),
        ("--steps 0", "--steps: expected a whole number of at least 1, got '0'"),
        ("--num x", "--num: expected a whole number, got 'x'"),
    ],
)
def test_what_does_not_fit_is_named(words, message):
    with pytest.raises(InputError, match=message):
        read(words)


def test_rows_are_those_of_the_chosen_kinds():
    job = Job(create_solver("ddim"))
    rows = {
        key: (shown_at(job, key, hint), help_of(hint)) for key, hint in rows_of(Job, parts_of(job))
    }
    assert [*rows] == ["solver", "solver.steps", "solver.clip", "solver.eta", "num"]
    assert rows["solver"] == ("ddim", "a solver")
    assert rows["num"] == ("none", "a number")
