"""Draws are cut into the rows of a process and of a micro-batch."""

import torch

from convflow.conditions.labels import take
from convflow.objectives.objective import Objective
from convflow.processes.flow import TrainingDraws


def test_draws_of_every_kind_are_cut_into_rows():
    rows, noise, t = slice(1, 3), torch.randn(4, 1, 2, 2), torch.rand(4)
    assert take(None, rows) is None
    assert take(t, rows).equal(t[1:3])
    cut = take(TrainingDraws(noise, t), rows)
    assert (cut.noise.equal(noise[1:3]), cut.t.equal(t[1:3])) == (True, True)
    assert Objective().draw((4, 1, 2, 2), torch.Generator()) is None
