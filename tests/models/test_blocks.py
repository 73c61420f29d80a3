"""Compiled blocks, and blocks that are computed again, give the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convflow.bench.agreement import TOLERANCE, distance
from convflow.models.blocks import compile_blocks, recompute_blocks
from convflow.models.families import BACKBONES, build
from convflow.nn.norm import Modulation, modulate
from convflow.types import InputError
from tests.cases import TINY, TINY_DICO, TINY_DIT, perturb
from tests.extending.network import Net

DEEP = {"depth": 5}
DEEP_U = {"depths": [2, 2, 2, 2, 2]}
CASES = {  # settings, and kinds: blocks by width and size, and the head
    "flowdcn": (TINY | DEEP, 1 + 1),
    "dit": (TINY_DIT | DEEP, 1 + 1),
    "dico": (TINY_DICO | DEEP_U, 4 + 1),  # the last stage is wider than the first
    "fcdm": (TINY_DICO | DEEP_U, 3 + 1),
}


class Counting:
    """A compiler that leaves graphs as they are and counts them."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph


def inputs():
    return torch.randn(2, 3, 16, 24), torch.rand(2), torch.zeros(2, dtype=torch.int64)


SLOW = [pytest.param(family, marks=pytest.mark.slow) for family in ("flowdcn", "dico", "dit")]


@pytest.mark.parametrize("family", ["fcdm", *SLOW])
def test_each_kind_of_block_compiles_once(family, unchecked):
    torch.compiler.reset()
    settings, kinds = CASES[family]
    model, counting, batch = perturb(build(family, settings, BACKBONES)), Counting(), inputs()
    names = [*model.state_dict()]
    with torch.no_grad():
        truth = model(*batch)
        compile_blocks(model, backend=counting)
        found = [model(*batch) for _ in range(2)]
    assert counting.graphs == kinds
    assert distance(found, [truth] * 2) <= TOLERANCE[torch.float32]
    assert [*model.state_dict()] == names


@pytest.mark.parametrize("family", ["dit", pytest.param("dico", marks=pytest.mark.slow)])
def test_gradients_are_those_of_the_network_as_it_was(family, unchecked):
    torch.compiler.reset()
    model, batch = perturb(build(family, CASES[family][0], BACKBONES)), inputs()

    def gradients():
        model.zero_grad()
        model(*batch).square().mean().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    truth = gradients()
    compile_blocks(model, backend="aot_eager")
    assert distance(gradients(), truth) <= TOLERANCE[torch.float32]


def test_many_sizes_stay_compiled(unchecked):
    """Beyond eight graphs of a kind torch gives up if it is not asked."""
    torch.compiler.reset()

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.modulation = Modulation(4, 2)

        def forward(self, x, c):
            return modulate(x, *self.modulation(c))

    model, counting = Block(), Counting()
    compile_blocks(model, backend=counting)
    for side in range(2, 12):
        model(torch.randn(2, side, 3, 4), torch.randn(2, 4))
    assert counting.graphs == 10


def test_a_network_without_blocks_is_refused():
    with pytest.raises(InputError, match="expected a network with blocks that have a Modulation"):
        compile_blocks(nn.Linear(2, 2))


@pytest.mark.parametrize("which", ["blocks", "every-2"])
@pytest.mark.parametrize("family", CASES)
def test_blocks_that_are_computed_again_keep_less_and_give_the_same_bits(family, which):
    model, batch = perturb(build(family, CASES[family][0], BACKBONES)), inputs()

    def step():
        model.zero_grad()
        kept = {}

        def keep(tensor):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(*batch).square().mean()
        size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        loss.backward()
        return loss.detach(), [p.grad.clone() for p in model.parameters()], size

    names, (loss, gradients, size) = [*model.state_dict()], step()
    recompute_blocks(model, which)
    again, others, less = step()
    assert torch.equal(loss, again)
    assert all(map(torch.equal, gradients, others))
    assert less < (0.6 if which == "blocks" else 0.9) * size
    assert [*model.state_dict()] == names
    with model.features_after([1]) as found, torch.no_grad():
        model(*batch)
    assert [*found] == [1]


def test_a_network_without_blocks_has_nothing_to_compute_again():
    with pytest.raises(InputError, match=r"leave out --memory\.recompute"):
        recompute_blocks(Net(), "blocks")
    recompute_blocks(Net(), "none")
