"""Objectives from settings; what is wrong with settings is tested in tests/extending."""

import pytest
import torch
from torch import nn

from convflow.objectives.objective import Objective
from convflow.objectives.regression import Regression
from convflow.objectives.table import create_objectives
from convflow.processes.process import create_process
from convflow.types import InputError

PROCESS, NETWORK = create_process("flow"), nn.Linear(2, 3)


class Mine(Objective):
    """With a parameter, and with the network where it is told to break the rule."""

    def __init__(self, network, process, keep=False):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(network.out_features))
        if keep:
            self.network = network


MINE = {"kind": f"{__name__}:Mine"}


def test_the_loss_of_the_process_is_there_unless_it_weighs_nothing():
    for settings, expected in (
        ({}, {"process": 1.0}),
        ({"mine": MINE}, {"process": 1.0, "mine": 1.0}),
        ({"mine": MINE | {"weight": 0.5}, "process": {"weight": 2}}, {"process": 2.0, "mine": 0.5}),
        ({"mine": MINE, "process": {"weight": 0}}, {"mine": 1.0}),
    ):
        found = create_objectives(settings, NETWORK, PROCESS)
        assert {name: weighted.weight for name, weighted in found.items()} == expected
        assert list(found) == list(expected)
    assert isinstance(create_objectives({}, NETWORK, PROCESS)["process"].objective, Regression)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"process": {"weight": 0}}, "expected above 0 without another objective"),
        ({"process": {"block": 1}}, "unknown setting 'block'"),
        ({"mine": MINE | {"weight": float("inf")}}, "expected a finite number"),
        ({"mine": MINE | {"keep": True}}, "expected an objective without the network in it"),
        ({"mine": {"kind": "processes"}}, "unknown objective 'processes'; did you mean 'process'"),
    ],
)
def test_settings_that_make_no_objective_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        create_objectives(settings, NETWORK, PROCESS)
