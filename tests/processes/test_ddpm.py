"""DDPM: the released numbers, the step back against Bayes' rule, its loss, and flow time."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from convflow.conditions.labels import take
from convflow.processes import ddpm as module
from convflow.processes.ddpm import DDPM
from convflow.processes.flow import TrainingDraws
from convflow.samplers.ode import integrate, time_grid
from convflow.types import InputError
from tests.cases import GOLDENS, exact
from tests.tolerance import GOLDEN, assert_close_rms

VARIANCES = ["learned", "small", "large"]
FULL = DDPM()


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDENS / "gaussian_diffusion.safetensors")


def toy(x, t, y=None):
    """The closed-form network of the golden file."""
    s = (t / 1000).view(-1, 1, 1, 1)
    return torch.cat([torch.sin(1.3 * x + s), torch.tanh(x - 2 * s)], 1)


def noise_only(x, t, y=None):
    return toy(x, t)[:, : x.shape[1]]


def none(count):
    return torch.zeros(count, dtype=torch.int64)


def test_the_released_betas_and_mix(golden):
    assert_close_rms(FULL.betas, golden["out.betas"])
    x = FULL.mix(golden["in.x0"], golden["in.noise"], golden["in.t"])
    assert_close_rms(x, golden["out.x_t"], limit=GOLDEN)


def test_the_released_loss(golden):
    """Steps 0, with its likelihood of pixels, 17, 500 and 999."""
    data, t, y = golden["in.x0"], golden["in.t"], none(4)
    draws = TrainingDraws(golden["in.noise"], t.float())
    assert_close_rms(FULL.loss_at(toy, data, y, draws), golden["out.loss"], limit=GOLDEN)
    error = DDPM("small").loss_at(noise_only, data, y, draws)
    assert_close_rms(error, golden["out.mse"], limit=GOLDEN)
    x = FULL.mix(data, golden["in.noise"], t)
    assert_close_rms(FULL.bound(toy(x, t), data, x, t), golden["out.vb"], limit=GOLDEN)


def test_the_released_respacing_and_step_back(golden):
    chain, x, t = FULL.respaced(50), golden["in.z"], golden["in.p_t"]
    assert chain.times.equal(golden["out.timestep_map_50"])
    back = chain.posterior(toy(x, chain.model_times(t)), x, t)
    for actual, key in (
        (back.mean, "mean"),
        (back.variance, "variance"),
        (back.log_variance, "log_variance"),
    ):
        assert_close_rms(actual, golden[f"out.p_{key}"], limit=GOLDEN)


@pytest.mark.parametrize("steps", [1, 2, 7, 50, 999, 1000])
def test_a_respaced_chain_has_the_noise_of_the_steps_it_keeps(steps):
    chain = FULL.respaced(steps)
    assert len(chain) == len(chain.times) == steps
    assert chain.times[-1] == 999
    assert steps == 1 or chain.times[0] == 0
    assert_close_rms(chain.signal, FULL.signal[chain.times])
    again = chain.respaced(max(1, steps // 2))
    assert_close_rms(again.signal, FULL.signal[again.times])
    t = torch.rand(5, dtype=torch.float64)
    assert chain.path.alpha(t).equal(FULL.path.alpha(t))
    assert chain.step_at(t).equal(FULL.step_at(t))
    assert chain.model_times(torch.tensor([steps - 1])).item() == 999


@pytest.mark.parametrize("steps", [1000, 50])
def test_the_step_back_from_known_data_is_bayes_rule(steps):
    """x_{t-1} given data is N(a data, b), and x_t given x_{t-1} is N(sqrt(1 - beta) x, beta)."""
    chain = DDPM("small").respaced(steps)
    k = torch.arange(1, steps)
    data, x = torch.randn(2, len(k), 1, 1, 1, dtype=torch.float64).unbind()
    back = chain.posterior(chain.predict_noise(data, x, k), x, k)
    before, beta = chain.signal_before[1:], chain.betas[1:]
    precision = 1 / (1 - before) + (1 - beta) / beta
    pull = before.sqrt() * data.flatten() / (1 - before) + (1 - beta).sqrt() * x.flatten() / beta
    assert_close_rms(back.mean.flatten(), pull / precision)
    assert_close_rms(back.variance.flatten(), 1 / precision)
    assert_close_rms(back.data, data)


def test_variances_lie_between_small_and_large():
    x, t = torch.randn(3, 1, 2, 2), torch.tensor([0, 10, 999])
    logs = {}
    for variance in ("small", "large"):
        logs[variance] = DDPM(variance).posterior(torch.zeros_like(x), x, t).log_variance
        assert logs[variance].shape == x.shape
    assert (logs["small"] <= logs["large"]).all()
    for v, name in ((-1.0, "small"), (1.0, "large")):
        output = torch.cat([torch.zeros_like(x), torch.full_like(x, v)], 1)
        assert_close_rms(FULL.posterior(output, x, t).log_variance[1:], logs[name][1:])
    assert_close_rms(logs["large"][1:, 0, 0, 0], FULL.betas[[10, 999]].log().float())
    assert logs["small"][0].equal(logs["large"][0])  # the first step has the second's


def test_clipping_keeps_the_predicted_data_in_range():
    chain, x, t = DDPM("small"), 3 * torch.randn(2, 1, 4, 4), torch.tensor([500, 900])
    free, clipped = (chain.posterior(noise_only(x, t), x, t, clip) for clip in (False, True))
    assert free.data.abs().max() > 1
    assert clipped.data.equal(free.data.clamp(-1, 1))
    assert not clipped.mean.equal(free.mean)


def test_steps_are_uniform_and_follow_the_generator_alone():
    def draw(seed, count=20_000):
        return FULL.draw((count, 1, 1, 1), torch.Generator().manual_seed(seed))

    t = draw(0).t
    assert t.dtype == torch.float32
    assert t.equal(t.round())
    assert (t.min().item(), t.max().item()) == (0, 999)
    # The 99.9 % point of chi-squared with 9 degrees of freedom.
    counts = torch.histc(t, 10, 0, 1000)
    assert ((counts - 2000).square() / 2000).sum() < 27.9
    assert all(a.equal(b) for a, b in zip(draw(3, 5), draw(3, 5), strict=True))
    assert take(draw(3, 5), slice(1, None, 2)).t.equal(draw(3, 5).t[1::2])


def test_the_mean_learns_from_the_error_and_the_variance_from_the_bound():
    data, y = torch.randn(3, 2, 4, 4), none(3)
    draws = TrainingDraws(torch.randn_like(data), torch.tensor([0.0, 40.0, 999.0]))
    output = toy(FULL.mix(data, *draws), draws.t).requires_grad_()
    FULL.loss_at(lambda x, t, y: output, data, y, draws).sum().backward()
    plain = output.detach()[:, :2].requires_grad_()
    DDPM("small").loss_at(lambda x, t, y: plain, data, y, draws).sum().backward()
    assert output.grad[:, :2].equal(plain.grad)
    assert all(output.grad[i, 2:].any() for i in range(3))


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_exact_noise_for_a_gaussian_has_the_least_loss(variance):
    process, mean, spread = DDPM(variance), 0.7, 0.5
    generator = torch.Generator().manual_seed(0)
    data = mean + spread * torch.randn(20_000, 1, 1, 2, generator=generator)
    draws = process.draw(tuple(data.shape), generator)

    def loss(gain=1.0, bias=0.0):
        def model(x, t, y):
            answer = gain * gaussian_noise(x, t, mean, spread) + bias
            return torch.cat([answer, 0 * answer], 1) if variance == "learned" else answer

        return process.loss_at(model, data, none(len(data)), draws).mean().item()

    assert loss() < min(loss(0.95), loss(1.05), loss(bias=0.05), loss(bias=-0.05))


def test_the_bound_is_least_at_the_true_variance():
    """With one image as the data the true step back has the small variance, v = -1."""
    data = torch.full((3, 1, 2, 2), 0.3, dtype=torch.float64)
    t = torch.tensor([1, 30, 400])
    noise = torch.randn_like(data)
    x = FULL.mix(data, noise, t)

    def bound(v):
        return FULL.bound(torch.cat([noise, torch.full_like(noise, v)], 1), data, x, t)

    assert bound(-1.0).abs().max() < 1e-12
    assert (bound(-0.5) > bound(-1.0)).all()
    assert (bound(-1.5) > bound(-1.0)).all()


def test_the_likelihood_of_all_bins_is_one():
    bins = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).view(-1, 1)
    mean, log_variance = torch.tensor([0.0, 0.4, -1.2, 1.0]), torch.tensor([-9.0, -3, -5, -8])
    total = module._log_likelihood(bins, mean.double(), log_variance.double()).exp().sum(0)
    assert (total - 1).abs().max() < 256 * 1e-12  # the floor of each bin
    middle = module._log_likelihood(bins[127:129], mean[:1].double(), log_variance[:1].double())
    edge = 1 / 127.5 / math.sqrt(2) / math.exp(-4.5)
    assert middle.exp().sum().item() == pytest.approx(math.erf(edge), abs=1e-3)


def gaussian_noise(x, step, mean, spread, process=FULL):
    """E[noise | x_t] for data N(mean, spread^2), at fractional steps too."""
    t = process.flow_time(step).view(-1, 1, 1, 1)
    alpha, sigma = process.path.alpha(t), process.path.sigma(t)
    share = sigma / ((alpha * spread) ** 2 + sigma**2)
    return share * (x - alpha * mean)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_the_ode_of_a_noise_network_ends_in_the_data(solver):
    mean, spread = 0.7, 0.5

    def network(x, step, y):
        assert step.min() >= 0
        assert step.max() <= 999
        answer = gaussian_noise(x, step, mean, spread)
        return torch.cat([answer, torch.full_like(answer, torch.nan)], 1)

    noise = torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, 1, 3, 3)
    field = FULL.as_prediction(network, "velocity")
    out = integrate(field, noise, none(1), time_grid(100), solver)
    assert (out - (mean + spread * noise)).abs().max() < {"euler": 0.05, "heun": 0.01}[solver]


def test_flow_time_falls_through_the_steps():
    t = torch.linspace(0, 1, 3001, dtype=torch.float64)
    steps = FULL.step_at(t)
    assert (steps[0], steps[-1]) == (999, 0)
    assert (steps.diff() <= 0).all()
    k = torch.arange(1000, dtype=torch.float64)
    assert_close_rms(FULL.step_at(FULL.flow_time(k)), k)
    assert_close_rms(FULL.path.alpha(FULL.flow_time(k)), FULL.signal.sqrt())
    assert_close_rms(FULL.path.sigma(FULL.flow_time(k)), (1 - FULL.signal).sqrt())


def test_a_step_a_rounding_away_is_that_step():
    data, noise = torch.randn(2, 1, 1, 2, 2).unbind()
    near, there = (FULL.mix(data, noise, torch.tensor([t])) for t in (798.9999, 799.0))
    assert near.equal(there)
    assert FULL.model_times(torch.tensor([798.9999])).item() == 799


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_loss_is_summed_in_float32_at_least(dtype):
    data, y = torch.randn(2, 1, 4, 4), none(2)
    draws = TrainingDraws(torch.randn_like(data), torch.tensor([3.0, 700.0]))
    model = exact(lambda x, t: torch.full((2, 2, 4, 4), 0.5, dtype=dtype))
    losses = FULL.loss_at(model, data, y, draws)
    assert losses.dtype == torch.promote_types(dtype, torch.float32)
    half = exact(lambda x, t: torch.full((2, 2, 4, 4), 0.5))
    assert_close_rms(losses.float(), FULL.loss_at(half, data, y, draws))


def test_what_does_not_fit_is_refused(unchecked):
    with pytest.raises(InputError, match=r"unknown variance 'learnt'; did you mean 'learned'\?"):
        DDPM("learnt")
    for betas in ([], [0.1, 1.0], [0.0], [math.nan]):
        with pytest.raises(InputError, match=r"expected betas within \(0, 1\)"):
            type("Short", (DDPM,), {"betas": torch.tensor(betas, dtype=torch.float64)})()
    for steps in (0, 1001):
        with pytest.raises(InputError, match=f"expected 1 to 1000 steps, got {steps}"):
            FULL.respaced(steps)
    x, generator = torch.zeros(1, 3, 2, 2), torch.Generator()
    with pytest.raises(InputError, match=r"of 6 channels for the learned variance, got 3; build"):
        FULL.loss(noise_only, x, none(1), generator)
    with pytest.raises(InputError, match=r"of 3 channels for the small variance, got 6; build"):
        DDPM("small").loss(toy, x, none(1), generator)
