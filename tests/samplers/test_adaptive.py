"""The adaptive solver: its tolerances hold, its calls are counted, no time beyond the end."""

from __future__ import annotations

import sys

import pytest
import torch

from convflow.samplers.adaptive import integrate_adaptive
from convflow.types import InputError
from tests.cases import exact
from tests.samplers.equation import LABELS, START, distance, field, start


def test_smaller_tolerances_cost_more_and_err_less():
    errors, calls = [], []
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-9):
        model = field()
        out = integrate_adaptive(model, start(), LABELS, atol=tolerance, rtol=tolerance)
        assert out.evaluations == model.calls
        errors.append(distance(out.state))
        calls.append(out.evaluations)
        assert errors[-1] < 10 * START * tolerance
    assert errors == sorted(errors, reverse=True)
    assert calls == sorted(calls)
    assert len(set(calls)) == 4


def test_the_defaults_are_those_of_sit():
    one = integrate_adaptive(field(), start(), LABELS)
    other = integrate_adaptive(field(), start(), LABELS, 0.0, 1.0, atol=1e-6, rtol=1e-3)
    assert one.state.equal(other.state)
    assert 1e-9 < distance(one.state) < 1e-2


def test_part_of_the_way():
    half = integrate_adaptive(field(), start(), LABELS, 0.0, 0.5, rtol=1e-9, atol=1e-9)
    assert distance(half.state, 0.5) < 1e-7
    whole = integrate_adaptive(field(), half.state, LABELS, 0.5, 1.0, rtol=1e-9, atol=1e-9)
    assert distance(whole.state) < 1e-7


def test_no_time_beyond_the_ends_is_asked_for():
    seen = []
    model = exact(lambda x, t: seen.append(t.flatten()) or torch.cos(9 * t) * x)
    integrate_adaptive(model, torch.ones(3, 1, 1, 1), LABELS.expand(3))
    times = torch.stack(seen)
    assert times.shape[1] == 3
    assert times.min() == 0
    assert 1 - 1e-6 < times.max() <= 1


def test_a_hard_sample_is_not_hidden_among_easy_ones():
    """The mean error of a batch may be small where that of one sample is not."""
    rates = torch.tensor([30.0, *[0.1] * 63], dtype=torch.float64).view(-1, 1, 1, 1)
    model = exact(lambda x, t: torch.cos(rates * t))
    noise = torch.zeros(64, 1, 1, 1, dtype=torch.float64)
    out = integrate_adaptive(model, noise, LABELS.expand(64), atol=1e-5, rtol=1e-12)
    alone = integrate_adaptive(
        exact(lambda x, t: torch.cos(rates[:1] * t)), noise[:1], LABELS, atol=1e-5, rtol=1e-12
    )
    assert out.evaluations >= alone.evaluations
    assert (out.state - torch.sin(rates) / rates).abs().max() < 1e-4


def test_samples_agree_between_batches_within_the_tolerance():
    noise = torch.randn(4, 1, 2, 2, dtype=torch.float64)
    model = exact(lambda x, t: torch.sin(3 * x + t))
    whole = integrate_adaptive(model, noise, LABELS.expand(4), rtol=1e-6).state
    alone = [integrate_adaptive(model, one[None], LABELS, rtol=1e-6).state for one in noise]
    assert (whole - torch.cat(alone)).abs().max() < 1e-4


def test_labels_reach_the_model_no_gradient_leaves_and_the_dtype_stays():
    labels = torch.tensor([4, 2])

    def model(x, t, y):
        assert y.equal(labels)
        return x.bfloat16() * torch.ones((), requires_grad=True)

    out = integrate_adaptive(model, torch.ones(2, 1, 1, 1), labels, atol=0.1, rtol=0.1).state
    assert not out.requires_grad
    assert out.dtype == torch.float32


def test_a_batch_of_none():
    out = integrate_adaptive(field(), start()[:0], LABELS[:0])
    assert (out.state.shape, out.evaluations) == ((0, 1, 1, 4), 0)


@pytest.mark.parametrize("bad", [{"atol": 0.0}, {"rtol": float("nan")}, {"start": 1.0}])
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(InputError, match=r"expected atol > 0, rtol > 0 and start < end, got"):
        integrate_adaptive(field(), start(), LABELS, **bad)


def test_tolerances_that_cannot_be_met_are_named():
    with pytest.raises(InputError, match="expected tolerances that can be met, got atol 1e-30"):
        integrate_adaptive(field(), start().float(), LABELS, atol=1e-30, rtol=1e-30)


def test_what_to_install_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(InputError, match=r"pip install convflow\[ode\]"):
        integrate_adaptive(field(), start(), LABELS)
