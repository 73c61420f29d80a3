"""Predictions: every pair converts there and back, at the ends of time by the documented rule."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from convflow.processes.prediction import LEAST, ROWS, Kind, Predicts, convert
from convflow.processes.schedule import SCHEDULES
from convflow.types import InputError
from tests.cases import GOLDENS, exact
from tests.processes.test_schedule import ALL
from tests.tolerance import GOLDEN, assert_close_rms

KINDS = get_args(Kind)
PAIRS = list(itertools.product(KINDS, KINDS))


def known(name, t):
    """Data, noise, x_t, and what each kind of prediction is there, from its definition."""
    data, noise = torch.randn(2, len(t), 2, 3, 4, dtype=t.dtype).unbind()
    schedule, column = ALL[name], t.view(-1, 1, 1, 1)
    alpha, sigma, alpha_rate, sigma_rate = (f(column) for f in schedule[1:])
    answers = {
        "data": data,
        "noise": noise,
        "velocity": alpha_rate * data + sigma_rate * noise,
        "score": -noise / sigma,
    }
    return schedule, alpha * data + sigma * noise, answers


@pytest.mark.parametrize("name", ALL)
@given(t=st.floats(0.01, 0.995))
def test_every_kind_gives_every_other(name, t):
    t = torch.tensor([t, 0.5], dtype=torch.float64)
    schedule, x, answers = known(name, t)
    for source, wanted in PAIRS:
        converted = convert(answers[source], x, t, schedule, source, wanted)
        assert_close_rms(converted, answers[wanted])
        back = convert(converted, x, t, schedule, wanted, source)
        assert_close_rms(back, answers[source])


@pytest.mark.parametrize("name", ALL)
def test_a_velocity_tells_all_at_both_ends(name):
    t = torch.tensor([0.0, 1e-9, 1 - 1e-9, 1.0], dtype=torch.float64)
    schedule, x, answers = known(name, t)
    for wanted in ("data", "noise"):
        converted = convert(answers["velocity"], x, t, schedule, "velocity", wanted)
        assert_close_rms(converted, answers[wanted])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALL)
def test_everything_is_finite_up_to_the_ends(name, dtype):
    t = torch.tensor([0, 1e-30, 1e-6, 1e-3, 1 - 1e-3, 1 - 1e-6, 1], dtype=dtype)
    for source, wanted in PAIRS:
        prediction, x = torch.randn(2, len(t), 1, 2, 2, dtype=dtype).unbind()
        converted = convert(prediction, x, t, ALL[name], source, wanted)
        assert converted.isfinite().all(), (source, wanted)
        assert converted.abs().max() < 10 / LEAST**2, (source, wanted)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_where_noise_tells_nothing_of_data_the_data_are_their_mean(name):
    t = torch.zeros(2, dtype=torch.float64)
    noise, x = torch.randn(2, 2, 1, 2, 2, dtype=torch.float64).unbind()
    assert not convert(noise, x, t, ALL[name], "noise", "data").any()
    velocity = convert(noise, x, t, ALL[name], "noise", "velocity")
    assert_close_rms(velocity, noise * ALL[name].sigma_rate(t).view(-1, 1, 1, 1))


@pytest.mark.parametrize("name", ALL)
def test_where_data_tell_nothing_of_noise_the_noise_is_its_mean(name):
    t = torch.ones(2, dtype=torch.float64)
    data, x = torch.randn(2, 2, 1, 2, 2, dtype=torch.float64).unbind()
    for wanted in ("noise", "score"):
        assert not convert(data, x, t, ALL[name], "data", wanted).any()
    assert convert(x, x, t, ALL[name], "score", "data").equal(x)


def test_the_rule_of_the_ends_begins_at_the_least_divisor():
    t = torch.tensor([LEAST / 2, LEAST, 2 * LEAST], dtype=torch.float64)
    noise, x = torch.zeros(3, 1, 1, 1, dtype=torch.float64), torch.ones(3, 1, 1, 1).double()
    data = convert(noise, x, t, SCHEDULES["linear"], "noise", "data").flatten()
    expected = torch.tensor([0.5 / LEAST, 1 / LEAST, 0.5 / LEAST], dtype=torch.float64)
    assert_close_rms(data, expected)


@pytest.mark.parametrize("name", ALL)
def test_no_velocity_is_near_a_division_by_nothing(name):
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    schedule = ALL[name]
    row = ROWS["velocity"](schedule, t)
    assert (schedule.sigma(t) * row.data - schedule.alpha(t) * row.noise).min() > 10 * LEAST
    assert name in ("linear", "cosine") or schedule.alpha(t).min() > LEAST


@pytest.mark.parametrize(
    ("name", "released"), [("linear", "linear"), ("cosine", "gvp"), ("vp", "vp")]
)
def test_the_released_score_from_velocity(name, released):
    golden = load_file(GOLDENS / "sit_transport.safetensors")
    x, t = golden[f"out.{released}.x_t"], golden["in.t"]
    velocity = x.cos() + t.view(-1, 1, 1, 1)
    score = convert(velocity, x, t, SCHEDULES[name], "velocity", "score")
    assert_close_rms(score, golden[f"out.{released}.score_from_velocity"], limit=GOLDEN)


def test_a_wrapped_network_predicts_what_is_wanted_and_no_variance():
    t, y = torch.tensor([0.3, 0.6], dtype=torch.float64), torch.tensor([1, 2])
    schedule, x, answers = known("cosine", t)

    def network(x_, t_, y_):
        assert x_.equal(x)
        assert t_.equal(t)
        assert y_.equal(y)
        return torch.cat([answers["noise"], torch.full_like(x, torch.nan)], 1)

    for wanted in KINDS:
        wrapped = Predicts(network, schedule, "noise", wanted)
        assert_close_rms(wrapped(x, t, y), answers[wanted])


def test_unknown_kinds_are_refused(unchecked):
    x, t = torch.zeros(1, 1, 1, 1), torch.zeros(1)
    message = r"unknown prediction 'velocty'; did you mean 'velocity'\?"
    with pytest.raises(InputError, match=message):
        convert(x, x, t, SCHEDULES["linear"], "noise", "velocty")
    with pytest.raises(InputError, match=message):
        Predicts(exact(lambda x, t: x), SCHEDULES["linear"], "velocty", "noise")
