"""Weights cast once give what autocast gives, and the network keeps its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convflow.models.half import cast_weights
from tests.cases import MODELS, build, inputs


@pytest.mark.parametrize("case", MODELS)
def test_the_same_bits_as_autocast(case):
    model = build(case).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    half, given = cast_weights(model), inputs(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert half(*given).equal(model(*given))
    kinds = {
        type(m) for m in half.modules() for p in m.parameters(False) if p.dtype != torch.float32
    }
    assert kinds
    assert all(issubclass(kind, nn.Linear | nn.Conv2d) for kind in kinds)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_hooks_are_those_of_the_network():
    class Counter:
        calls = 0

        def count(self, *_):
            self.calls += 1

    layer, counter = nn.Linear(2, 3), Counter()
    layer.register_forward_hook(counter.count)
    with torch.autocast("cpu", torch.bfloat16):
        cast_weights(layer)(torch.ones(1, 2))
    assert counter.calls == 1
