"""The dispersive loss against a double loop, its gradient included."""

import math

import torch

from convflow.objectives.dispersive import Dispersive, log_mean_closeness
from tests.objectives.encoder import inputs_of, network_of, pictures
from tests.tolerance import assert_close_rms


def double_loop(features, temperature):
    rows = list(features.flatten(1))
    total = sum(torch.exp(-(a - b).square().mean() / temperature) for a in rows for b in rows)
    return torch.log(total / len(rows) ** 2)


def test_it_is_the_double_loop_and_so_is_its_gradient():
    network, process = network_of("sit")
    objective = Dispersive(network, process, temperature=0.7)
    assert objective.wants.features == (0,), "a quarter of four blocks"
    features = torch.randn(4, 3, 2, 5, dtype=torch.float64).float().requires_grad_()
    batch = inputs_of(pictures(), process, features={0: features})
    found = objective.terms(None, batch, None)["closeness"]
    assert found.shape == (4,)
    truth = double_loop(features.double(), 0.7)
    assert_close_rms(found[0], truth)
    gradients = [torch.autograd.grad(loss, features)[0] for loss in (found.mean(), truth)]
    assert_close_rms(*gradients)


def test_features_far_from_zero_and_alike_are_told_apart():
    features = 100 + 0.1 * torch.randn(3, 50, dtype=torch.float64)
    truth = double_loop(features, 0.5)
    assert abs(float(log_mean_closeness(features.float(), 0.5)) - float(truth)) < 1e-4
    same = log_mean_closeness(torch.ones(5, 2), 0.5)
    assert math.isclose(float(same), 0, abs_tol=1e-6)
