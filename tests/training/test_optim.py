"""The learning rate, and its state there and back."""

import re

import pytest
import safetensors.torch
import torch
from torch import nn

from convflow.training.optim import (
    create_optimizer,
    learning_rate,
    optimizer_tensors,
    restore_optimizer,
)
from convflow.training.optimizers import AdamW
from convflow.types import InputError
from tests.cases import build


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def steps(model, optimizer, count):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        model(torch.randn(5, 3, generator=generator)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_constant_rate_with_warm_up():
    config = AdamW(lr=0.1, warmup_images=100)
    assert learning_rate(config, 0, 10, 1000) == pytest.approx(0.01)
    assert learning_rate(config, 90, 10, 1000) == 0.1
    assert learning_rate(config, 990, 10, 1000) == 0.1


def test_no_warm_up():
    assert learning_rate(AdamW(lr=0.1), 0, 1, 1000) == 0.1


def test_a_linear_rate_falls_towards_zero_and_no_further():
    config = AdamW(lr=0.1, warmup_images=100, schedule="linear")
    assert learning_rate(config, 40, 10, 1000) == pytest.approx(0.1 * 0.5 * 0.96)
    assert learning_rate(config, 500, 10, 1000) == pytest.approx(0.05)
    assert learning_rate(config, 1000, 10, 1000) == 0
    assert learning_rate(config, 1064, 10, 1000) == 0


def test_a_cosine_rate_falls_slowly_then_quickly_then_slowly():
    config = AdamW(lr=0.1, warmup_images=100, schedule="cosine")
    rates = [learning_rate(config, seen, 10, 1000) for seen in (40, 250, 500, 750, 1000)]
    expected = [0.1 * 0.5 * 0.99606, 0.0853553, 0.05, 0.0146447, 0]
    assert rates == pytest.approx(expected, rel=1e-4, abs=1e-12)


def test_a_stable_rate_falls_at_the_end_alone():
    config = AdamW(lr=0.1, warmup_images=100, schedule="wsd", decay_images=200)
    rates = [learning_rate(config, seen, 10, 1000) for seen in (40, 200, 800, 850, 990, 1000)]
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.075, 0.005, 0])


@pytest.mark.parametrize("warmup", [0, 64])
def test_every_step_of_a_linear_run_learns(warmup):
    """Also the last one, and the only one of a run of one step."""
    config = AdamW(lr=0.1, warmup_images=warmup, schedule="linear")
    assert learning_rate(config, 0, 64, 64) == 0.1
    assert learning_rate(config, 936, 64, 1000) == pytest.approx(0.1 * 0.064)


SPARED = r"bias$|norm\w*\.weight$|prior_scale$|gamma$|beta$|label(\.\d)?\.weight$"


@pytest.mark.parametrize("name", ["flowdcn", "dico", "fcdm", "dit"])
def test_norms_biases_priors_and_tables_are_spared_the_decay(name):
    model = build(name)
    before = {key: value.clone() for key, value in model.named_parameters()}
    optimizer = create_optimizer(model, AdamW(lr=0.5, weight_decay=0.1))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # without a gradient the decay alone moves
    for key, value in model.named_parameters():
        kept = 1.0 if re.search(SPARED, key) else 0.95
        torch.testing.assert_close(value, kept * before[key], msg=key)


def test_without_a_decay_there_is_one_group_as_ever():
    assert len(create_optimizer(build("flowdcn"), AdamW()).param_groups) == 1


def test_the_state_survives_a_file_bit_for_bit(tmp_path):
    model = network()
    optimizer = create_optimizer(model, AdamW(lr=0.01, weight_decay=0.1))
    steps(model, optimizer, 3)
    path = tmp_path / "optimizer.safetensors"
    safetensors.torch.save_file(optimizer_tensors(model, optimizer), path)

    other = network()
    other.load_state_dict(model.state_dict())
    restored = create_optimizer(other, AdamW(lr=0.01, weight_decay=0.1))
    restore_optimizer(other, restored, safetensors.torch.load_file(path), 3)
    first, second = optimizer_tensors(model, optimizer), optimizer_tensors(other, restored)
    assert first.keys() == second.keys()
    assert len(first) == 3 * 4
    assert all(torch.equal(first[key], second[key]) for key in first)
    steps(model, optimizer, 2)
    steps(other, restored, 2)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )


def test_no_step_has_no_state():
    model = network()
    optimizer = create_optimizer(model, AdamW())
    assert optimizer_tensors(model, optimizer) == {}
    restore_optimizer(model, optimizer, {}, 0)


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "empty"])
def test_a_state_that_does_not_fit_is_refused(fault):
    model = network()
    optimizer = create_optimizer(model, AdamW())
    steps(model, optimizer, 1)
    tensors = optimizer_tensors(model, optimizer)
    if fault == "missing":
        del tensors["1.bias/exp_avg"]
    elif fault == "unknown":
        tensors["2.bias/exp_avg"] = torch.zeros(2)
    elif fault == "shape":
        tensors["1.bias/exp_avg"] = torch.zeros(3)
    else:
        tensors = {}
    fresh = create_optimizer(model, AdamW())
    with pytest.raises(InputError, match="does not fit the network"):
        restore_optimizer(model, fresh, tensors, 1)
    assert not fresh.state
