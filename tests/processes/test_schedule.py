"""Schedules: rates against autograd, the ends of time, the released interpolants."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from convflow.processes.ddpm import DDPM
from convflow.processes.flow import FlowMatching
from convflow.processes.schedule import LEAST_NOISE, SCHEDULES, Schedule, discrete, find_schedule
from convflow.types import InputError
from tests.cases import GOLDENS
from tests.tolerance import GOLDEN, assert_close_rms

ALL: dict[str, Schedule] = {**SCHEDULES, "ddpm": DDPM().path}
TIMES = torch.linspace(0, 1, 4001, dtype=torch.float64)


@pytest.mark.parametrize("name", ALL)
def test_rates_are_the_derivatives(name):
    schedule = ALL[name]
    t = TIMES[schedule.sigma(TIMES) > LEAST_NOISE]
    for function, rate in (
        (schedule.alpha, schedule.alpha_rate),
        (schedule.sigma, schedule.sigma_rate),
    ):
        _, derivative = torch.autograd.functional.jvp(function, t, torch.ones_like(t))
        assert_close_rms(rate(t), derivative)


@pytest.mark.parametrize("name", ALL)
def test_data_come_and_noise_goes(name):
    schedule = ALL[name]
    assert (schedule.alpha(TIMES).diff() > 0).all()
    assert (schedule.sigma(TIMES).diff() < 0).all()
    assert (schedule.alpha_rate(TIMES) >= 0).all()
    assert (schedule.sigma_rate(TIMES) <= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALL)
def test_the_ends_are_as_documented(name, dtype):
    schedule, ends = ALL[name], torch.tensor([0.0, 1.0], dtype=dtype)
    (first_alpha, last_alpha), (first_sigma, last_sigma) = (
        f(ends).tolist() for f in (schedule.alpha, schedule.sigma)
    )
    assert (last_alpha, last_sigma) == (1, 0)
    if name in ("linear", "cosine"):
        assert (first_alpha, first_sigma) == (0, 1)
    else:
        assert first_alpha == pytest.approx({"vp": 0.0066, "ddpm": 0.0064}[name], abs=5e-5)
        assert first_sigma == pytest.approx(1, abs=5e-5)
    for function in schedule[1:]:
        values = function(ends)
        assert values.dtype == dtype
        assert values.isfinite().all()


@pytest.mark.parametrize("name", ["vp", "ddpm"])
def test_the_rate_of_the_last_noise_is_that_of_the_least(name):
    schedule = ALL[name]
    t = torch.linspace(0.999, 1, 1001, dtype=torch.float64)
    t = t[schedule.sigma(t) < LEAST_NOISE]
    assert len(t) > 100
    assert_close_rms(
        schedule.sigma_rate(t) * LEAST_NOISE, -schedule.alpha(t) * schedule.alpha_rate(t)
    )
    assert schedule.sigma_rate(t).abs().max() < 6


@pytest.mark.parametrize("name", ["cosine", "vp", "ddpm"])
def test_these_preserve_the_variance(name):
    alpha, sigma = (f(TIMES) for f in ALL[name][1:3])
    assert_close_rms(alpha.square() + sigma.square(), torch.ones_like(TIMES))


@pytest.mark.parametrize("name", ALL)
def test_float32_is_the_same_function(name):
    t = torch.rand(1000, dtype=torch.float64).float()
    for function in ALL[name][1:]:
        assert_close_rms(function(t), function(t.double()))


@pytest.mark.parametrize(
    ("name", "released"), [("linear", "linear"), ("cosine", "gvp"), ("vp", "vp")]
)
def test_the_released_interpolants(name, released):
    golden = load_file(GOLDENS / "sit_transport.safetensors")
    data, noise, t = (golden[f"in.{key}"] for key in ("data", "noise", "t"))
    process = FlowMatching(schedule=name)
    for actual, key in ((process.mix, "x_t"), (process.target, "u_t")):
        assert_close_rms(actual(data, noise, t), golden[f"out.{released}.{key}"], limit=GOLDEN)


def test_ddpm_in_flow_time_is_nearly_vp():
    vp, ddpm = SCHEDULES["vp"], ALL["ddpm"]
    assert (ddpm.alpha(TIMES) - vp.alpha(TIMES)).abs().max() < 2e-3
    assert (ddpm.alpha_rate(TIMES) - vp.alpha_rate(TIMES)).abs().max() < 1e-2


@given(st.lists(st.floats(1e-5, 0.9), min_size=2, max_size=12))
def test_a_chain_of_any_betas_becomes_a_schedule_through_its_steps(betas):
    signal = (1 - torch.tensor(betas, dtype=torch.float64)).cumprod(0)
    schedule, count = discrete("any", signal), len(betas)
    steps = 1 - (torch.arange(count, dtype=torch.float64) + 1) / count
    assert_close_rms(schedule.alpha(steps), signal.sqrt())
    rising = schedule.alpha(torch.linspace(0, 1, 200, dtype=torch.float64)).diff()
    assert (rising >= -1e-15).all()


def test_a_chain_of_one_step_is_a_schedule():
    schedule = discrete("one", torch.tensor([0.25], dtype=torch.float64))
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    assert_close_rms(schedule.alpha(t), 0.5 ** (1 - t))


def test_names_are_looked_up():
    assert find_schedule("vp") is SCHEDULES["vp"]
    assert find_schedule(ALL["ddpm"]) is ALL["ddpm"]
    with pytest.raises(InputError, match=r"unknown schedule 'cosin'; did you mean 'cosine'\?"):
        find_schedule("cosin")
