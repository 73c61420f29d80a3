"""The loss on velocities against velocities computed from each prediction."""

import pytest
import torch

from convflow.objectives.objective import Inputs
from convflow.objectives.table import create_objectives
from convflow.objectives.velocity import VelocityError
from convflow.processes.flow import FlowMatching
from convflow.processes.schedule import SCHEDULES
from tests.tolerance import assert_close_rms


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", ["data", "noise", "velocity", "score"])
def test_it_is_the_squared_error_of_the_velocity(schedule, prediction):
    process = FlowMatching(schedule=schedule, prediction=prediction)
    generator = torch.Generator().manual_seed(1)
    data, noise, output = torch.randn(3, 5, 2, 4, 4, generator=generator, dtype=torch.float64)
    t = torch.tensor([0.3, 0.4, 0.5, 0.6, 0.8], dtype=torch.float64)
    draws = process.draw((5, 2, 4, 4), generator)._replace(noise=noise, t=t)
    objective = VelocityError(process)
    batch = Inputs(data, torch.zeros(5, dtype=torch.int64))
    found = objective.terms(lambda x, t, y: output, batch, draws)["loss"]
    for image in range(5):
        path, at = process.path, t[image]
        alpha, sigma = path.alpha(at), path.sigma(at)
        x = alpha * data[image] + sigma * noise[image]
        said = output[image]
        if prediction == "score":
            said, kind = -sigma * said, "noise"
        else:
            kind = prediction
        if kind == "velocity":
            velocity = said
        else:
            clean = said if kind == "data" else (x - sigma * said) / alpha
            dirty = said if kind == "noise" else (x - alpha * said) / sigma
            velocity = path.alpha_rate(at) * clean + path.sigma_rate(at) * dirty
        true = path.alpha_rate(at) * data[image] + path.sigma_rate(at) * noise[image]
        assert_close_rms(found[image], (velocity - true).square().mean())


def test_an_error_is_divided_by_no_less_than_it_is_told():
    factor = VelocityError(FlowMatching(prediction="data"), least=0.1).factor
    torch.testing.assert_close(factor(torch.tensor([0.5, 0.95, 1.0])), torch.tensor([2.0, 10, 10]))
    found = create_objectives(
        {"process": {"kind": "velocity", "least": 0.2}}, torch.nn.Linear(1, 1), FlowMatching()
    )
    assert found["process"].objective.least == 0.2
