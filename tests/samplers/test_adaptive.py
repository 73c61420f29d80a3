"""The adaptive solver: its tolerances hold, no time beyond the end."""

from __future__ import annotations

import sys

import pytest
import torch

from convflow.samplers.adaptive import Dopri5
from convflow.types import InputError
from tests.cases import exact
from tests.samplers.equation import LABELS, START, distance, field, solve, start


def test_smaller_tolerances_cost_more_and_err_less():
    errors, calls = [], []
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-9):
        model = field()
        errors.append(distance(solve(Dopri5(tolerance, tolerance), model, start(), LABELS)))
        calls.append(model.calls)
        assert errors[-1] < 10 * START * tolerance
    assert errors == sorted(errors, reverse=True)
    assert calls == sorted(calls)
    assert len(set(calls)) == 4


def test_the_defaults_are_those_of_sit():
    one = solve(Dopri5(), field(), start(), LABELS)
    other = solve(Dopri5(atol=1e-6, rtol=1e-3), field(), start(), LABELS)
    assert one.equal(other)
    assert 1e-9 < distance(one) < 1e-2


def test_no_time_beyond_the_ends_is_asked_for():
    seen = []
    model = exact(lambda x, t: seen.append(t.flatten()) or torch.cos(9 * t) * x)
    solve(Dopri5(), model, torch.ones(3, 1, 1, 1), LABELS.expand(3))
    times = torch.stack(seen)
    assert times.shape[1] == 3
    assert times.min() == 0
    assert 1 - 1e-6 < times.max() <= 1


def test_a_hard_sample_is_not_hidden_among_easy_ones():
    """The mean error of a batch may be small where that of one sample is not."""
    rates = torch.tensor([30.0, *[0.1] * 63], dtype=torch.float64).view(-1, 1, 1, 1)
    model = exact(lambda x, t: torch.cos(rates * t))
    noise = torch.zeros(64, 1, 1, 1, dtype=torch.float64)
    out = solve(Dopri5(1e-5, 1e-12), model, noise, LABELS.expand(64))
    alone = exact(lambda x, t: torch.cos(rates[:1] * t))
    solve(Dopri5(1e-5, 1e-12), alone, noise[:1], LABELS)
    assert model.calls >= alone.calls
    assert (out - torch.sin(rates) / rates).abs().max() < 1e-4


def test_samples_agree_between_batches_within_the_tolerance():
    noise = torch.randn(4, 1, 2, 2, dtype=torch.float64)
    model = exact(lambda x, t: torch.sin(3 * x + t))
    whole = solve(Dopri5(rtol=1e-6), model, noise, LABELS.expand(4))
    alone = [solve(Dopri5(rtol=1e-6), model, one[None], LABELS) for one in noise]
    assert (whole - torch.cat(alone)).abs().max() < 1e-4


def test_labels_reach_the_model_no_gradient_leaves_and_the_dtype_stays():
    labels = torch.tensor([4, 2])

    def model(x, t, y):
        assert y.equal(labels)
        return x.bfloat16() * torch.ones((), requires_grad=True)

    out = solve(Dopri5(0.1, 0.1), model, torch.ones(2, 1, 1, 1), labels)
    assert not out.requires_grad
    assert out.dtype == torch.float32


def test_a_batch_of_none():
    model = field()
    assert solve(Dopri5(), model, start()[:0], LABELS[:0]).shape == (0, 1, 1, 4)
    assert model.calls == 0


@pytest.mark.parametrize("bad", [{"atol": 0.0}, {"rtol": float("nan")}, {"rtol": float("inf")}])
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(InputError, match=r"[ar]tol: expected a (finite )?number"):
        Dopri5(**bad)


def test_tolerances_that_cannot_be_met_are_named():
    with pytest.raises(InputError, match="expected tolerances that can be met, got atol 1e-30"):
        solve(Dopri5(1e-30, 1e-30), field(), start().float(), LABELS)


def test_what_to_install_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(InputError, match=r"pip install convflow\[ode\]"):
        solve(Dopri5(), field(), start(), LABELS)
