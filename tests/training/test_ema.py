"""The running average against a plain loop."""

import copy

import pytest
import torch
from torch import nn

from convflow.training.ema import EMA


def network(dtype=torch.float32):
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)).to(dtype)


@pytest.mark.parametrize("warmup", [0.0, 0.5, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_to_a_plain_loop_in_float32(dtype, warmup):
    model = network(dtype)
    ema = EMA(model, decay=0.9, warmup=warmup)
    plain = [p.detach().double() for p in model.parameters()]
    for step in range(1, 30):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        ema.update(model, step)
        decay = min(0.9, (1 + step) / (warmup + step)) if warmup else 0.9
        plain = [
            decay * average + (1 - decay) * p.detach().double()
            for average, p in zip(plain, model.parameters(), strict=True)
        ]
    for average, truth in zip(ema.model.parameters(), plain, strict=True):
        assert average.dtype == torch.float32
        torch.testing.assert_close(average.double(), truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("warmup", [0.0, 10.0])
@pytest.mark.parametrize("every", [2, 5])
def test_an_update_every_few_steps_has_the_same_half_life(every, warmup):
    """Once weights stay, both averages come as near to them."""
    model = network()
    usual, rare = EMA(model, 0.95, warmup), EMA(model, 0.95, warmup, every)
    start = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    for step in range(1, 31):
        usual.update(model, step)
        before = [p.clone() for p in rare.model.parameters()]
        rare.update(model, step)
        moved = not all(map(torch.equal, before, rare.model.parameters()))
        assert moved == (step % every == 0)
        if step % every == 0:
            for average, other in zip(
                usual.model.parameters(), rare.model.parameters(), strict=True
            ):
                torch.testing.assert_close(average, other, rtol=1e-5, atol=1e-6)
    assert not torch.equal(start[0], next(rare.model.parameters()))


def test_small_steps_are_not_lost_as_they_would_be_in_bfloat16():
    model = network(torch.bfloat16)
    ema = EMA(model, decay=0.999, warmup=0)
    start = copy.deepcopy(ema.model.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    ema.update(model, 1)
    for name, average in ema.model.state_dict().items():
        assert (average - start[name]).min() > 5e-4


def test_warmup_forgets_the_beginning():
    model = network()
    slow, quick = EMA(model, 0.9999, warmup=0), EMA(model, 0.9999, warmup=10)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    for step in range(1, 101):
        slow.update(model, step)
        quick.update(model, step)

    def distance(ema):
        return max(
            float((a - p).detach().abs().max())
            for a, p in zip(ema.model.parameters(), model.parameters(), strict=True)
        )

    assert distance(slow) > 0.98
    assert distance(quick) < 1e-5


def test_the_average_neither_trains_nor_drags_the_model_along():
    model = network()
    ema = EMA(model, 0.5, 0)
    before = copy.deepcopy(model.state_dict())
    ema.update(model, 1)
    assert not any(p.requires_grad for p in ema.model.parameters())
    assert not ema.model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_what_is_not_trained_is_neither_averaged_nor_copied():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2).requires_grad_(False))
    ema = EMA(model.to(torch.bfloat16), 0.9, 0)
    model(torch.randn(5, 3, dtype=torch.bfloat16))  # moves the buffers of the norm
    frozen = model[2].weight.clone()
    with torch.no_grad():
        model[0].weight.add_(1)
    ema.update(model, 1)
    assert ema.model[2].weight is model[2].weight
    assert model[2].weight.equal(frozen)
    assert ema.model[1].running_mean is model[1].running_mean
    assert ema.model[0].weight.dtype == torch.float32
    assert not ema.model[0].weight.equal(model[0].weight.float())
    assert list(ema.averages(model)) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert model.training
    assert not any(module.training for module in ema.model.modules())
