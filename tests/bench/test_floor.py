"""The floor of a network repeats its products, convolutions and attentions, and nothing else."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from convflow.bench.floor import Products
from convflow.models.cost import EXTRA_OPERATORS
from tests.cases import build, inputs


class Names(TorchDispatchMode):
    """Counts what is called."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


def operations(call):
    with FlopCounterMode(display=False, custom_mapping=EXTRA_OPERATORS) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("case", ["flowdcn", "dico", "fcdm", "dit"])
def test_the_floor_does_the_operations_of_the_network(case, training):
    model = build(case).requires_grad_(training)
    x, t, y = inputs(model)

    def run():
        out = model(x, t, y).square().mean()
        if training:
            out.backward()

    with Products() as products:
        run()
    floor = products.replay()
    assert operations(floor) == operations(run) > 0


def test_the_floor_calls_nothing_else():
    weight, x = torch.randn(4, 6, requires_grad=True), torch.randn(2, 6)

    def run():
        F.gelu(F.linear(x, weight).softmax(-1)).sum().backward()

    with Products() as products:
        run()
    assert len(products.calls) == 2  # forward; backward of the weight
    with Names() as all_of_it:
        run()
    floor = products.replay()
    with Names() as replayed:
        floor()
    assert replayed.found == Counter({"aten::mm": 2})
    assert all_of_it.found["aten::mm"] == 2
    assert len(all_of_it.found) > 3


def test_shapes_strides_and_dtypes_are_those_of_the_network():
    x = torch.randn(3, 5).bfloat16().t()
    with Products() as products:
        x @ x.t()
    (_, args, _), *rest = products.calls
    assert not rest
    assert [tuple(spec[:3]) for spec in args] == [
        ((5, 3), (1, 5), torch.bfloat16),
        ((3, 5), (5, 1), torch.bfloat16),
    ]
    products.replay()()
