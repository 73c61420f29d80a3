"""The module, the gradient or the weight that broke first is the one that is named."""

import pytest
import torch
from torch import nn

from convflow.training.divergence import (
    first_nonfinite_gradient,
    first_nonfinite_module,
    require_finite,
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
    require_finite({"the weights": model.state_dict()}, lambda: "none")


def test_a_gradient_is_named():
    model = network()
    model(torch.ones(1, 2)).sum().backward()
    model[2].bias.grad.fill_(torch.inf)
    assert first_nonfinite_gradient(model) == "2.bias"


@pytest.mark.parametrize("part", ["the weights", "the average of the weights"])
def test_what_is_not_finite_is_named_with_what_is_kept(part):
    parts = {name: network().state_dict() for name in ("the weights", "the average of the weights")}
    parts[part]["2.bias"].fill_(torch.inf)
    message = f"finite numbers in {part}, got others, first in 2.bias; .*; kept: none; try a lower"
    with pytest.raises(Diverged, match=message):
        require_finite(parts, lambda: "none")


def test_hooks_go_when_the_forward_pass_fails():
    model = network()
    with pytest.raises(RuntimeError):
        first_nonfinite_module(model, lambda: model(torch.ones(1, 5)))
    assert not any(module._forward_hooks for module in model.modules())
