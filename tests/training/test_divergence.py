"""The module, the gradient or the weight that broke first is the one that is named."""

import pytest
import torch
from torch import nn

from convflow.training.divergence import (
    first_nonfinite_gradient,
    first_nonfinite_module,
    require_finite_weights,
)
from convflow.types import Diverged


def network():
    inner = nn.Sequential(nn.Linear(2, 2), nn.Identity())
    return nn.Sequential(nn.Linear(2, 2), inner, nn.Linear(2, 1))


def test_the_innermost_first_module_is_named_and_hooks_go():
    model = network()
    with torch.no_grad():
        model[1][0].weight[0, 0] = torch.nan
    found = first_nonfinite_module(model, lambda: model(torch.ones(1, 2)))
    assert found == "1.0 (Linear)"
    assert not any(module._forward_hooks for module in model.modules())


def test_nothing_is_named_when_all_is_finite():
    model = network()
    assert first_nonfinite_module(model, lambda: model(torch.ones(1, 2))) is None
    model(torch.ones(1, 2)).sum().backward()
    assert first_nonfinite_gradient(model) is None
    require_finite_weights(model)


def test_a_gradient_is_named():
    model = network()
    model(torch.ones(1, 2)).sum().backward()
    model[2].bias.grad.fill_(torch.inf)
    assert first_nonfinite_gradient(model) == "2.bias"


def test_a_weight_is_named():
    model = network()
    with torch.no_grad():
        model[2].bias.fill_(torch.inf)
    with pytest.raises(Diverged, match=r"first in 2\.bias"):
        require_finite_weights(model)


def test_hooks_go_when_the_forward_pass_fails():
    model = network()
    with pytest.raises(RuntimeError):
        first_nonfinite_module(model, lambda: model(torch.ones(1, 5)))
    assert not any(module._forward_hooks for module in model.modules())
