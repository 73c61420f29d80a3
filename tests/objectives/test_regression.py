"""The process's own loss is what the process says, at the times that a size asks for."""

import pytest
import torch

from convflow.objectives.objective import Inputs
from convflow.objectives.regression import Regression
from convflow.processes.process import create_process


@pytest.mark.parametrize("process", ["flow", "ddpm"])
def test_it_is_the_loss_of_the_process(process):
    process = create_process(process)
    data, labels = torch.randn(3, 2, 4, 4), torch.tensor([0, 1, 2])

    def network(x, t, y):
        return torch.cat([x, x], 1) if process.learned_variance else 0.5 * x

    objective, generators = Regression(process), [torch.Generator().manual_seed(3) for _ in "ab"]
    draws = objective.draw(tuple(data.shape), generators[0])
    found = objective.terms(network, Inputs(data, labels), draws)
    assert found.keys() == {"loss"}
    assert found["loss"].equal(process.loss(network, data, labels, generators[1]))


def test_larger_pictures_lean_to_noise_where_they_are_to():
    shape, process = (5, 1, 8, 8), create_process("flow")
    plain, same, larger = (
        Regression(process, trained).draw(shape, torch.Generator().manual_seed(1)).t
        for trained in (None, (8, 8), (4, 4))
    )
    assert plain.equal(same)
    torch.testing.assert_close(larger, plain / (plain + (1 - plain) * 2))
