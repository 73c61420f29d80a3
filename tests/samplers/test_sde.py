"""The SDE's diffusions against the released code, and its solvers on data of known moments."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from convflow.processes.schedule import SCHEDULES
from convflow.samplers.ode import integrate, time_grid
from convflow.samplers.sde import DIFFUSIONS, LAST_STEPS, SDE, SDE_SOLVERS
from convflow.seeds import draw_noise
from convflow.types import InputError
from tests.cases import GOLDENS, exact
from tests.samplers.equation import Normal, order, solve
from tests.tolerance import GOLDEN, assert_close_rms

PATHS = {"linear": "linear", "gvp": "cosine", "vp": "vp"}
SPELLED = {"sbdm": "SBDM", "increasing-decreasing": "inccreasing-decreasing"}
LINEAR = SCHEDULES["linear"]
X = torch.tensor([1.3, -0.4], dtype=torch.float64).view(2, 1, 1, 1)
Y = torch.zeros(2, dtype=torch.int64)


def field(x, t, y):
    return torch.sin(2 * x) + t.view(-1, 1, 1, 1)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("diffusion", sorted(DIFFUSIONS.keys() - {"flowdcn"}))
def test_diffusions_are_those_of_the_released_code(path, diffusion):
    golden = load_file(GOLDENS / "sit_transport.safetensors")
    ours = DIFFUSIONS[diffusion](SCHEDULES[PATHS[path]], golden["in.t"])
    released = golden[f"out.{path}.diffusion_{SPELLED.get(diffusion, diffusion)}"].flatten()
    assert_close_rms(ours, released, limit=GOLDEN)


def test_the_diffusion_of_flowdcn_is_its_formula():
    """x + v dt + s w dt / 2 + sqrt(w dt) z with w = 1 - t and s = (t v - x) / (1 - t)."""
    kick = torch.randn(2, 1, 1, 1, dtype=torch.float64)
    t, h = 0.3, 0.1
    solver = SDE(diffusion="flowdcn", last="none")
    out = solve(solver, field, X, Y, grid=[t, t + h], draw=lambda step: kick)
    v = field(X, torch.full((2,), t, dtype=torch.float64), Y)
    score = (t * v - X) / (1 - t)
    hand = X + v * h + score * (1 - t) * h / 2 + math.sqrt((1 - t) * h) * kick
    assert_close_rms(out, hand)


def moments(schedule, grid, solver, diffusion):
    """The exact mean and variance that a solver gives.

    The SDE of normal data is linear, so a unit of noise in one step at a time says it all.
    """
    model, n = Normal(schedule), len(grid) - 1
    mean, variance = model.at(grid[0])
    x = mean.expand(n + 2, 1, 1, -1).clone()
    x[1] += variance.sqrt()

    def draw(step):
        unit = torch.zeros_like(x)
        unit[step + 1] = 1
        return unit

    y = torch.zeros(n + 2, dtype=torch.int64)
    part = SDE(solver, n, diffusion=diffusion, last="none")
    out = solve(part, model, x, y, schedule, grid=grid, draw=draw)
    assert model.calls == n * SDE_SOLVERS[solver]
    return out[0].flatten(), (out[1:] - out[0]).square().sum(0).flatten()


PAIRS = [*(("linear", name) for name in DIFFUSIONS), ("cosine", "sbdm"), ("vp", "sbdm")]
"""Each diffusion, and the one in which most depends on the schedule with each schedule."""


@pytest.mark.parametrize("solver", SDE_SOLVERS)
@pytest.mark.parametrize(("schedule", "diffusion"), PAIRS)
def test_the_measured_weak_order_is_the_stated_one(solver, diffusion, schedule):
    steps, errors = [32, 64], []
    for n in steps:
        grid = [0.1 + 0.75 * i / n for i in range(n + 1)]
        found = torch.cat(moments(SCHEDULES[schedule], grid, solver, diffusion))
        truth = torch.cat(Normal(SCHEDULES[schedule]).at(grid[-1]))
        errors.append((found - truth).norm().item())
    assert order(steps, errors) == pytest.approx(SDE_SOLVERS[solver], abs=0.2)


@pytest.mark.parametrize(("schedule", "diffusion"), [("linear", "flowdcn"), *PAIRS[-2:]])
def test_samples_have_the_mean_and_variance_of_the_path(diffusion, schedule):
    model, batch, generator = Normal(SCHEDULES[schedule]), 2000, torch.Generator().manual_seed(3)
    grid = [0.96 * i / 80 for i in range(81)]

    def draw(step):
        return torch.randn(batch, 1, 1, 3, generator=generator, dtype=torch.float64)

    solver = SDE("stochastic-heun", diffusion=diffusion, last="none")
    noise, labels = model.start(batch, 0.0), torch.zeros(batch, dtype=torch.int64)
    out = solve(solver, model, noise, labels, model.schedule, grid=grid, draw=draw)
    mean, variance = model.at(grid[-1])
    assert ((out.mean(0).flatten() - mean) / (variance / batch).sqrt()).abs().max() < 4
    assert (out.var(0).flatten() / variance - 1).abs().max() < 4 * math.sqrt(2 / batch)


@pytest.mark.parametrize("solver", SDE_SOLVERS)
def test_without_strength_it_is_the_ode(solver):
    grid = time_grid(7)
    out = solve(SDE(solver, 7, strength=0.0, last="none"), field, X, Y)
    rule = {"euler-maruyama": "euler", "stochastic-heun": "heun"}[solver]
    if solver == "stochastic-heun":  # its last step, to t = 1, is Euler's
        start = integrate(field, X, Y, grid[:-1], rule)
        assert_close_rms(out, integrate(field, start, Y, grid[-2:], "euler"))
    else:
        assert_close_rms(out, integrate(field, X, Y, grid, rule))


@pytest.mark.parametrize("last", LAST_STEPS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_last_step_by_hand(last, schedule):
    path, kick, reported = SCHEDULES[schedule], torch.full_like(X, 0.5), []
    t, h = 0.96, 0.04

    def draw(step):
        reported.append(step)
        return kick

    out = solve(SDE(diffusion="linear", last=last), field, X, Y, path, grid=[t, 1.0], draw=draw)
    time = torch.full((2, 1, 1, 1), t, dtype=torch.float64)
    alpha, sigma, a, b = (f(time) for f in path[1:])
    v = field(X, time, Y)
    score = (alpha * v - a * X) / (sigma * (sigma * a - alpha * b))
    drift = v + (1 - t) * score
    hand = {
        "mean": X + h * drift,
        "euler": X + h * v,
        "tweedie": (X + sigma**2 * score) / alpha,
        "none": X + h * drift + math.sqrt(2 * h * (1 - t)) * kick,
    }[last]
    assert_close_rms(out, hand)
    assert reported == ([1] if last == "none" else [])


def test_defaults_are_those_of_sit():
    assert (SDE.diffusion, SDE.last) == ("sigma", "mean")


@pytest.mark.parametrize("solver", SDE_SOLVERS)
def test_each_step_has_its_noise_and_is_reported(solver):
    reported, drawn = [], []

    def draw(step):
        drawn.append(step)
        return torch.zeros(2, 1, 1, 1)

    def callback(step, of, x):
        reported.append((step, of, x))

    out = solve(SDE(solver, 5, last_step=0.04), field, X, Y, draw=draw, callback=callback)
    assert drawn == [1, 2, 3, 4]
    assert [step[:2] for step in reported] == [(i, 5) for i in range(1, 6)]
    assert reported[-1][2].equal(out)


@pytest.mark.parametrize("solver", SDE_SOLVERS)
def test_a_sample_depends_on_its_seed_and_number_alone(solver):
    def sample(indices):
        def draw(step):
            return draw_noise(5, indices, (1, 2, 3), step)

        y = torch.zeros(len(indices), dtype=torch.int64)
        return solve(SDE(solver, 6), field, draw(0), y, draw=draw)

    whole = sample([0, 1, 2, 7])
    assert_close_rms(whole, torch.cat([sample([0, 1]), sample([2]), sample([7])]))
    assert not whole[:1].equal(whole[1:2])
    assert sample([]).shape == (0, 1, 2, 3)
    assert not sample([0]).requires_grad


def test_sums_are_in_the_dtype_of_the_noise():
    out = solve(SDE(steps=3), exact(lambda x, t: x.bfloat16()), X.float(), Y)
    assert out.dtype == torch.float32


@pytest.mark.parametrize("solver", SDE_SOLVERS)
@pytest.mark.parametrize(("schedule", "diffusion"), PAIRS)
def test_the_ends_of_time_are_finite(solver, schedule, diffusion):
    schedule = SCHEDULES[schedule]
    part = SDE(solver, 20, diffusion=diffusion, last="none")
    noise, labels = torch.randn(4, 1, 1, 3), torch.zeros(4, dtype=torch.int64)

    def draw(step):
        return torch.randn(4, 1, 1, 3)

    out = solve(part, Normal(schedule), noise, labels, schedule, draw=draw)
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "euler"}, "unknown SDE solver 'euler'; did you mean 'euler-maruyama'"),
        ({"diffusion": "SBDM"}, "unknown diffusion 'SBDM'"),
        ({"last": "Mean"}, "unknown last step 'Mean'; did you mean 'mean'"),
        ({"strength": -1.0}, "strength: expected a number of at least 0, got '-1.0'"),
        ({"strength": math.inf}, "strength: expected a finite number"),
    ],
)
def test_what_is_not_there_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        solve(SDE(**options), field, X, Y)
