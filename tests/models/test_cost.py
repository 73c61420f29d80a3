"""What a network costs, against counts by hand, torch's own and a run that really happens."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from convflow.models.blocks import recompute_blocks
from convflow.models.cost import measure_cost
from convflow.models.zoo import RELEASED_SETTINGS, SIZES, create_model
from convflow.types import InputError
from tests.cases import MODELS, build, inputs


def test_the_counts_are_those_of_the_table():
    published = RELEASED_SETTINGS[SIZES["dit-s/2"].family]
    cost = measure_cost(partial(create_model, "dit-s/2", **published), (64, 64), batch=2)
    assert cost.parameters == SIZES["dit-s/2"].params
    assert cost.gmacs == pytest.approx(SIZES["dit-s/2"].gmacs[1], abs=6e-4)


@pytest.mark.parametrize("case", ["flowdcn", "dico", "fcdm", "dit", "sit-rotary"])
def test_a_real_run_keeps_the_bytes_and_counts_what_was_foreseen(case):
    model = build(case)
    x, t, y = inputs(model, batch=3, size=(4, 6))
    weights = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model(x, t, y)
    expected = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    family, settings = MODELS[case]
    cost = measure_cost(partial(create_model, family, **settings), tuple(x.shape[2:]), batch=3)
    assert cost.saved == pytest.approx(expected, rel=0.02)  # the batch itself, a few numbers
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False) as counter:
        model.to("meta")(*(tensor.to("meta") for tensor in (x, t, y)))
    assert cost.gmacs == pytest.approx(counter.get_total_flops() / 2e9 / 3)


@pytest.mark.parametrize("which", ["blocks", "every-2"])
@pytest.mark.parametrize("case", ["flowdcn", "dico", "fcdm", "dit"])
def test_the_bytes_of_blocks_that_are_computed_again_are_foreseen(case, which):
    """What is kept, and while the largest block is computed again: its results beside it."""
    family, settings = MODELS[case]
    create = partial(create_model, family, **settings)
    model = build(case)
    x, t, y = inputs(model, batch=3, size=(4, 6))
    plain, cost = (
        measure_cost(create, tuple(x.shape[2:]), batch=3, recompute=choice)
        for choice in ("none", which)
    )
    weights = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    recompute_blocks(model, which)
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model(x, t, y)
    expected = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert cost.saved == pytest.approx(expected, rel=0.02)
    assert 0 < cost.again < plain.saved
    assert cost.saved < 0.95 * plain.saved
    assert cost.training["activations"] == cost.saved + cost.again
    assert (cost.live, cost.gmacs) == (plain.live, plain.gmacs)


def test_memory_grows_as_it_must():
    settings = {"width": 64, "num_heads": 2, "num_classes": 3}
    small = measure_cost(partial(create_model, "dit", **settings, depth=2), (16, 16), 4)
    batch = measure_cost(partial(create_model, "dit", **settings, depth=2), (16, 16), 8)
    deep = measure_cost(partial(create_model, "dit", **settings, depth=4), (16, 16), 4)
    wide = measure_cost(partial(create_model, "dit", **settings, depth=2), (16, 32), 4)
    for more in (batch, wide):
        assert more.saved == pytest.approx(2 * small.saved, rel=0.02)
        assert more.live == pytest.approx(2 * small.live, rel=0.02)
    assert batch.gmacs == small.gmacs
    assert deep.live == pytest.approx(small.live, rel=0.02)  # one block at a time
    per_block = (deep.saved - small.saved) / 2
    tokens, width = 4 * 64, 64
    # Kept of a block, in widths of float32 for each token: what two norms take and give, two
    # modulations, q k v, attention's result, the hidden layer before and after its activation,
    # two results before their gates.
    assert per_block / (4 * tokens * width) == pytest.approx(22, abs=3)
    # At its widest place: the hidden layer before and after its activation, what goes into it, the
    # features there, before the block, and as they came from the stem.
    assert small.live / (4 * tokens * width) == pytest.approx(12, abs=0.2)


def test_items_of_the_estimate():
    cost = measure_cost(partial(create_model, "dit", width=16, depth=1, num_heads=2), (8, 8))
    numbers = 4 * cost.parameters
    assert cost.training == {
        "weights": numbers,
        "averaged weights": numbers,
        "gradients": numbers,
        "AdamW moments": 2 * numbers,
        "activations": cost.saved,
        "temporary results": cost.live,
    }
    assert cost.sampling == {"weights": numbers, "activations": cost.live}


def test_it_leaves_nothing_behind_and_refuses_sizes():
    before = torch.get_rng_state()
    build_tiny = partial(create_model, "sit", width=16, depth=1, num_heads=2)
    measure_cost(build_tiny, (8, 8))
    assert before.equal(torch.get_rng_state())
    assert type(torch.zeros(1)) is torch.Tensor
    with pytest.raises(InputError, match="multiples of 2, got 7x8"):
        measure_cost(build_tiny, (7, 8))
    with pytest.raises(InputError, match="multiples of 16, got 24x64; the nearest"):
        measure_cost(build_tiny, (24, 64), factor=8)
    assert measure_cost(build_tiny, (16, 64), factor=8) == measure_cost(build_tiny, (2, 8))
    measure_cost(build_tiny, (2, 8), 2**28)
    with pytest.raises(InputError, match="bytes can be counted, got 1000000000 images of 2x8"):
        measure_cost(build_tiny, (2, 8), 10**9)


@pytest.mark.parametrize("recompute", ["none", "blocks", "every-2"])
def test_blocks_that_are_alike_count_as_if_each_had_run(recompute, monkeypatch):
    build_tiny = partial(create_model, "dit", width=16, depth=6, num_heads=2)
    found = measure_cost(build_tiny, (8, 8), 2, 1, True, recompute)
    monkeypatch.setattr("convflow.models.cost.few_alike", lambda *_: nullcontext())
    assert found == measure_cost(build_tiny, (8, 8), 2, 1, True, recompute)
