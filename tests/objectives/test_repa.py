"""REPA against its formula, place by place."""

import torch

from convflow.objectives.repa import REPA, REPASettings
from tests.objectives.encoder import NAME, create, inputs_of, network_of, pictures
from tests.tolerance import assert_close_rms


def test_it_is_minus_the_mean_cosine_of_projected_and_encoded_places():
    network, process = network_of("flowdcn")
    objective = REPA(network, process, REPASettings(NAME, block=2, hidden=8))
    assert objective.wants == ((2,), False, True, False, False)
    pixels = pictures()
    features = torch.randn(4, 4, 4, 16)  # the grid of the encoder at 16x16 pixels
    batch = inputs_of(pixels, process, features={2: features})
    found = objective.terms(None, batch, None)
    encoded = create()(pixels).detach()
    first, second, third = objective.project[0], objective.project[2], objective.project[4]
    for image, value in enumerate(found["negative_cosine"]):
        total = torch.zeros(())
        for row in range(4):
            for column in range(4):
                hidden = features[image, row, column]
                for layer in (first, second):
                    hidden = layer.weight @ hidden + layer.bias
                    hidden = hidden * torch.sigmoid(hidden)
                ours, theirs = third.weight @ hidden + third.bias, encoded[image, :, row, column]
                total = total - ours @ theirs / (ours.norm() * theirs.norm())
        assert_close_rms(value, total / 16)
    assert found.keys() == {"negative_cosine"}


def test_another_grid_is_brought_to_that_of_the_network():
    network, process = network_of("flowdcn")
    objective = REPA(network, process, REPASettings(NAME, block=0, hidden=8))
    batch = inputs_of(pictures(), process, features={0: torch.randn(4, 8, 8, 16)})
    assert objective.terms(None, batch, None)["negative_cosine"].shape == (4,)
