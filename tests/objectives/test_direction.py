"""The direction of the velocity, for every prediction of which it follows."""

import pytest
import torch

from convflow.objectives.direction import Direction
from convflow.processes.flow import FlowMatching
from convflow.types import InputError
from tests.objectives.encoder import inputs_of, network_of, pictures
from tests.tolerance import assert_close_rms


@pytest.mark.parametrize("over", ["channels", "image"])
@pytest.mark.parametrize("prediction", ["velocity", "data", "noise"])
def test_it_is_one_minus_the_cosine_of_the_velocities(prediction, over):
    network, _ = network_of("flowdcn")
    process = FlowMatching(prediction=prediction)
    objective = Direction(network, process, over=over)
    batch = inputs_of(pictures(), process)
    batch.first.draws = batch.first.draws._replace(t=torch.tensor([0.2, 0.4, 0.6, 0.8]))
    batch.first.output = output = torch.randn(4, 3, 16, 16)
    found = objective.terms(None, batch, None)["direction"]
    noise, t = batch.first.draws
    t = t.view(-1, 1, 1, 1)
    x = t * batch.data + (1 - t) * noise
    implied = {"velocity": output, "data": (output - x) / (1 - t), "noise": (x - output) / t}
    ours, theirs = implied[prediction], batch.data - noise
    for image in range(4):
        a, b = ours[image].flatten(1), theirs[image].flatten(1)
        if over == "image":
            a, b = a.reshape(-1, 1), b.reshape(-1, 1)
        cosine = (a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0))
        assert_close_rms(found[image], 1 - cosine.mean())


def test_the_truth_has_no_loss_and_one_channel_no_direction():
    network, process = network_of("flowdcn")
    batch = inputs_of(pictures(), process)
    batch.first.output = batch.data - batch.first.draws.noise
    found = Direction(network, process).terms(None, batch, None)["direction"]
    assert float(found.abs().max()) < 1e-5
    grey, _ = network_of("flowdcn", channels=1)
    with pytest.raises(InputError, match="over image for data of one channel"):
        Direction(grey, process)
    assert Direction(grey, process, over="image").over == "image"
