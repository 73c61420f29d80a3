"""DPM-Solver++ and UniPC: diffusers' own loop is the twin, and normal data the truth."""

from __future__ import annotations

import sys

import pytest
import torch

from convflow.processes.ddpm import DDPM
from convflow.processes.prediction import convert
from convflow.processes.schedule import SCHEDULES, VP
from convflow.samplers.exponential import EXPONENTIAL_SOLVERS, Exponential
from convflow.samplers.ode import integrate, time_grid
from convflow.types import InputError
from tests.cases import exact
from tests.samplers.equation import Normal, order, solve
from tests.tolerance import assert_close_rms

NOISE = torch.randn(3, 2, 2, 3, generator=torch.Generator().manual_seed(0))
Y = torch.zeros(3, dtype=torch.int64)
LINEAR = SCHEDULES["linear"]


def field(x, t, y):
    return torch.sin(2 * x) + t.view(-1, 1, 1, 1)


@pytest.mark.parametrize("solver", EXPONENTIAL_SOLVERS)
def test_it_is_the_loop_of_diffusers(solver):
    """With diffusers' own times; its model predicts noise - data at the share of noise."""
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    maker = DPMSolverMultistepScheduler if "dpm" in solver else UniPCMultistepScheduler
    twin = maker(
        solver_order=3 if "3" in solver else 2,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=2.0,
    )
    twin.set_timesteps(12)
    x = NOISE
    for time, sigma in zip(twin.timesteps, twin.sigmas, strict=False):
        x = twin.step(-field(x, 1 - sigma.expand(3), Y), time, x).prev_sample
    grid = (1 - twin.sigmas.double()).tolist()
    assert_close_rms(solve(Exponential(solver), field, NOISE, Y, grid=grid), x)


@pytest.mark.parametrize("solver", EXPONENTIAL_SOLVERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_normal_data_are_reached_from_noise(solver, schedule):
    """The flow of normal data only stretches, so the answer is known."""
    model = Normal(SCHEDULES[schedule])
    noise = model.start(50, 0.0).float()
    labels = torch.zeros(50, dtype=torch.int64)
    out = solve(Exponential(solver, 40), model, noise, labels, model.schedule)
    assert model.calls == 40
    (before, spread), (after, wanted) = model.at(0.0), model.at(1.0)
    truth = after + (wanted / spread).sqrt() * (noise - before)
    assert ((out - truth).square().mean() / truth.var()).sqrt() < 0.03


@pytest.mark.parametrize("solver", EXPONENTIAL_SOLVERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_measured_order_is_two(solver, schedule):
    """Well inside, since at both ends of time a step of the log-signal has no bound."""
    model = Normal(SCHEDULES[schedule])
    (before, spread), (after, wanted) = model.at(0.2), model.at(0.8)
    noise = model.start(20, 0.2)
    truth = after + (wanted / spread).sqrt() * (noise - before)
    steps, errors = [16, 24, 32], []
    for n in steps:
        grid = [0.2 + 0.6 * i / n for i in range(n + 1)]
        labels = torch.zeros(20, dtype=torch.int64)
        out = solve(Exponential(solver, n), model, noise, labels, model.schedule, grid=grid)
        errors.append((out - truth).norm().item())
    assert order(steps, errors) == pytest.approx(2, abs=0.2)


def test_on_the_linear_path_ab2_and_heun_are_better_than_dpm():
    """Over the whole of time, where dpm++ is of order 1 below 80 steps; 20 and 40 calls each."""
    model = Normal(LINEAR)
    noise, labels = model.start(50, 0.0), torch.zeros(50, dtype=torch.int64)
    (before, spread), (after, wanted) = model.at(0.0), model.at(1.0)
    truth = after + (wanted / spread).sqrt() * (noise - before)
    errors = {}
    for calls in (20, 40):
        for solver, steps in (("ab2", calls), ("heun", calls // 2)):
            out = integrate(model, noise, labels, time_grid(steps), solver)
            errors[solver, calls] = (out - truth).norm().item()
        out = solve(Exponential("dpm++", calls), model, noise, labels)
        errors["dpm++", calls] = (out - truth).norm().item()
        assert max(errors["ab2", calls], errors["heun", calls]) < 0.9 * errors["dpm++", calls]
    assert order([20, 40], [errors["dpm++", calls] for calls in (20, 40)]) < 1.3


@pytest.mark.parametrize("solver", EXPONENTIAL_SOLVERS)
def test_few_steps_beat_euler(solver):
    grid = time_grid(8)
    truth = integrate(field, NOISE, Y, time_grid(400), "rk4")
    ours = solve(Exponential(solver, 8), field, NOISE, Y)
    euler = integrate(field, NOISE, Y, grid, "euler")
    assert (ours - truth).norm() < (euler - truth).norm() / 1.5


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["dpm++", "unipc"])
@pytest.mark.parametrize("schedule", [VP, DDPM().path], ids=["vp", "ddpm"])
def test_on_schedules_of_the_score_they_want_their_steps_near_the_data(solver, schedule):
    """Docs: with a shift of 0.3 they beat Euler by far; data are normal with deviation 0.3."""

    def exact_field(x, t, y):
        alpha, sigma = (f(t.double().view(-1, 1, 1, 1)) for f in (schedule.alpha, schedule.sigma))
        data = 0.5 + 0.09 * alpha / (0.09 * alpha**2 + sigma**2) * (x - 0.5 * alpha)
        return convert(data, x, t, schedule, "data", "velocity")

    def miss(run, shift):
        out = run(shift)
        return (out - truth).square().mean().sqrt() / 0.3

    noise, y = torch.randn(64, 1, 2, 2, dtype=torch.float64), torch.zeros(64, dtype=torch.int64)
    truth = integrate(exact_field, noise, y, time_grid(2000, shift=0.3), "rk4")

    def ours(shift):
        return solve(Exponential(solver, 20, shift), exact_field, noise, y, schedule).double()

    def euler(shift):
        return integrate(exact_field, noise, y, time_grid(20, shift=shift), "euler")

    best = miss(ours, 0.3)
    assert best < 0.01
    assert best < min(miss(euler, shift) for shift in (0.3, 1.0)) / 2
    assert best < miss(ours, 1.0) / 5


@pytest.mark.parametrize("solver", EXPONENTIAL_SOLVERS)
def test_a_sample_does_not_see_its_neighbours_and_every_step_is_reported(solver):
    told = []
    part = Exponential(solver, 6)
    whole = solve(part, field, NOISE, Y, callback=lambda *now: told.append(now))
    alone = [solve(part, field, one[None], Y[:1]) for one in NOISE]
    assert_close_rms(whole, torch.cat(alone))
    assert [step[:2] for step in told] == [(i, 6) for i in range(1, 7)]
    assert told[-1][2].equal(whole)
    assert solve(Exponential(solver, 1), field, NOISE, Y).isfinite().all()


@pytest.mark.parametrize("solver", EXPONENTIAL_SOLVERS)
def test_the_model_is_asked_at_the_times_of_the_grid(solver):
    seen = []
    model = exact(lambda x, t: seen.append(t.flatten()) or x)
    solve(Exponential(solver, 9, shift=1.7), model, NOISE.double(), Y)
    assert torch.stack(seen)[:, 0].tolist() == time_grid(9, shift=1.7)[:-1]


def test_an_unknown_solver_is_refused():
    with pytest.raises(InputError, match=r"unknown solver 'dpm'; did you mean 'dpm\+\+'"):
        solve(Exponential("dpm"), field, NOISE, Y)


def test_what_to_install_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers.schedulers.scheduling_dpmsolver_multistep", None)
    with pytest.raises(InputError, match=r"pip install convflow\[diffusers\]"):
        solve(Exponential(), field, NOISE, Y)
