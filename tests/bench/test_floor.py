"""The floor of a network repeats its products, convolutions and attentions, and nothing else."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from convflow.bench import floor as floors
from convflow.bench.floor import Products, other_engine
from convflow.models.cost import EXTRA_OPERATORS
from tests.cases import build, inputs
from tests.tolerance import assert_close_rms


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


@pytest.mark.parametrize("bias", [True, False])
def test_each_engine_of_a_large_product_is_tried_and_gives_the_same(bias):
    """2^25 multiply-adds, as matrix products and as 1x1 convolutions, forward and backward."""
    maps = torch.randn(2, 128, 16, 32).to(memory_format=torch.channels_last).requires_grad_()
    weight, shift = (
        torch.randn(256, 128, requires_grad=True),
        torch.randn(256, requires_grad=True) if bias else None,
    )
    runs = {
        "product": lambda: F.linear(maps.permute(0, 2, 3, 1).reshape(-1, 128), weight, shift),
        "convolution": lambda: F.conv2d(maps, weight[:, :, None, None], shift),
    }
    for run in runs.values():
        with Products() as products:
            run().square().sum().backward()
        for function, specs, _ in products.calls:
            args = tree_map_only(floors.Spec, floors._draw, specs, is_leaf=floors._is_spec)
            (other,) = other_engine(function, args)
            found, wanted = other(), function(*args)
            if function is torch.ops.aten.convolution_backward.default:
                wanted = [gradient for gradient in wanted if gradient is not None]
                assert len(found) == len(wanted) == 2 + args[-1][2]
            for one, truth in zip(_listed(found), _listed(wanted), strict=True):
                assert_close_rms(one.squeeze().flatten(), _as_rows(truth, one).flatten())


def _listed(found):
    return list(found) if isinstance(found, (tuple, list)) else [found]


def _as_rows(wanted, found):
    """Bring the axes of a product's result into the order of the other engine's."""
    if wanted.dim() == 4:
        return wanted.permute(0, 2, 3, 1)
    return wanted.t() if found.dim() == 4 else wanted


def test_the_floor_takes_the_faster_engine(monkeypatch):
    monkeypatch.setattr(floors, "least_seconds", lambda call: call.func is not F.conv2d)
    with Products() as products:
        torch.randn(1024, 128) @ torch.randn(128, 256)
        torch.randn(8, 128) @ torch.randn(128, 256)  # too small for another engine
    floor = products.replay()
    with Names() as names:
        floor()
    assert names.found["aten::convolution"] == 1
    assert names.found["aten::mm"] == 1


def test_a_product_reaches_the_other_engine_without_a_copy():
    rows, weight = torch.randn(4096, 128), torch.randn(128, 128)
    (other,) = other_engine(torch.ops.aten.mm.default, (rows, weight.t()))
    columns, filters, _ = other.args
    assert columns.is_contiguous(memory_format=torch.channels_last)
    assert columns.data_ptr() == rows.data_ptr()
    assert filters.is_contiguous()
