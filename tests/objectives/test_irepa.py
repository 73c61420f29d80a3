"""iREPA: its targets and its projector, against numpy and torch's own convolution."""

import numpy as np
import torch
from torch.nn import functional as F

from convflow.objectives.irepa import IREPA, IREPASettings, standardise
from tests.objectives.encoder import NAME, create, inputs_of, network_of, pictures
from tests.tolerance import assert_close_rms


def test_targets_are_standardised_over_places_of_each_channel():
    features = 3 + 2 * torch.randn(2, 3, 4, 5, dtype=torch.float64)
    found, half = standardise(features), standardise(features, 0.5)
    for image in range(2):
        for channel in range(5):
            plane = features[image, :, :, channel].numpy()
            expected = (plane - plane.mean()) / (plane.std() + 1e-6)
            np.testing.assert_allclose(found[image, :, :, channel], expected, rtol=1e-10)
            expected = (plane - plane.mean() / 2) / (plane.std() + 1e-6)
            np.testing.assert_allclose(half[image, :, :, channel], expected, rtol=1e-10)
    assert bool(standardise(torch.ones(1, 2, 2, 1)).isfinite().all()), "all places alike"


def test_it_is_the_cosine_behind_one_convolution():
    network, process = network_of("flowdcn")
    objective = IREPA(network, process, IREPASettings(NAME, block=1))
    pixels, features = pictures(), torch.randn(4, 4, 4, 16)
    found = objective.terms(None, inputs_of(pixels, process, features={1: features}), None)
    weights = objective.project.weight, objective.project.bias
    assert weights[0].shape == (6, 16, 3, 3)
    ours = F.conv2d(features.movedim(-1, 1), *weights, padding=1)
    encoded = create()(pixels).detach()
    mean, std = encoded.mean((2, 3), True), encoded.flatten(2).std(2, correction=0)[..., None, None]
    units = [x / x.norm(dim=1, keepdim=True) for x in (ours, (encoded - mean) / std)]
    assert_close_rms(found["negative_cosine"], -(units[0] * units[1]).sum(1).mean((1, 2)))
