"""Directional derivatives: of every network, and of what has none."""

import pytest
import torch

from convflow.models.zoo import create_model
from convflow.processes.derivative import push_forward
from convflow.types import InputError
from tests.cases import MODELS, inputs
from tests.tolerance import assert_close_rms

TOLD_TWO = [name for name, (_, s) in MODELS.items() if not s.get("learned_variance")]


@pytest.mark.parametrize("name", TOLD_TWO)
def test_derivatives_of_networks_equal_differences(name):
    from convflow.bench.models import perturb

    family, settings = MODELS[name]
    model = create_model(family, **settings, second_time=True, time_scale=3.0).double()
    x, t, y = inputs(perturb(model))
    x, t = x.double(), torch.stack([t / 2, t / 2 + 0.25], 1).double()
    along = torch.randn_like(x)
    still, onward = torch.zeros_like(t), torch.tensor([1.0, 0.0]).double().expand_as(t)
    slope = push_forward(model, (x, t), (along, still), y)
    assert not slope.requires_grad
    with torch.no_grad():
        step = 1e-6
        ahead, behind = (model(x + way * step * along, t, y) for way in (1, -1))
    assert_close_rms(slope.float(), ((ahead - behind) / (2 * step)).float(), torch.float32)
    one = push_forward(model, (x, t), (along, onward.contiguous()), y)
    _, other = torch.func.jvp(lambda *pair: model(*pair, y), (x, t), (along, onward))
    assert_close_rms(one, other)
    with torch.no_grad():  # the embedding forms its angles in float32
        moved = push_forward(model, (x, t), (torch.zeros_like(x), onward.contiguous()), y)
        ahead, behind = (model(x, t + way * 2**-9 * onward, y) for way in (1, -1))
        difference = (ahead - behind) * 2**8
    smooth = family not in ("flowdcn",) and "relu" not in name  # others have kinks
    assert not smooth or (moved - difference).norm() < 2e-3 * difference.norm()


def test_what_is_compiled_runs_as_it_was_written():
    layer = torch.nn.Linear(2, 2)
    layer.compile(backend="eager")
    layer(torch.ones(1, 2))
    x, along = torch.randn(3, 2), torch.randn(3, 2)
    slope = push_forward(layer, (x,), (along,))
    assert_close_rms(slope, along @ layer.weight.T)


class Stubborn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda x: x.detach(), "one whose output has none"),
        (Stubborn.apply, "operators with a forward derivative"),
    ],
)
def test_a_network_without_derivatives_is_refused(network, message):
    with pytest.raises(InputError, match=message):
        push_forward(network, (torch.ones(2),), (torch.ones(2),))


def test_other_errors_pass():
    def broken(x):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        push_forward(broken, (torch.ones(2),), (torch.ones(2),))
