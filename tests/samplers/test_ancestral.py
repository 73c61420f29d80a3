"""DDPM's chain walked back: against the released code, by hand, and on normal data."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from convflow.processes.ddpm import DDPM
from convflow.samplers.ancestral import DDIM, Ancestral
from convflow.seeds import draw_noise
from convflow.types import InputError
from tests.cases import GOLDENS
from tests.samplers.equation import Normal
from tests.tolerance import GOLDEN, assert_close_rms

NOISE = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
Y = torch.zeros(2, dtype=torch.int64)


def toy(x, t, y):
    """The closed-form network of the golden file; it learns the variance."""
    s = t.view(-1, 1, 1, 1) / 1000
    return torch.cat([torch.sin(1.3 * x + s), torch.tanh(x - 2 * s)], 1)


def walk(solver, network, process, noise, labels, draw, callback=None):
    """Data, from the noise at the end of a chain."""
    return solver.run(process, lambda of: of(network), noise, labels, draw, callback)


def draw(step):
    return torch.randn(NOISE.shape, generator=torch.Generator().manual_seed(step)).double()


def test_ddim_is_that_of_the_released_code():
    golden = load_file(GOLDENS / "gaussian_diffusion.safetensors")
    out = walk(DDIM(50), toy, DDPM(), golden["in.z"], Y, draw)
    assert_close_rms(out, golden["out.ddim50"], limit=GOLDEN)


@pytest.mark.parametrize("variance", ["learned", "small", "large"])
def test_ancestral_steps_by_hand(variance):
    ddpm = DDPM(variance)
    chain = ddpm.respaced(3)

    def network(x, t, y):
        return toy(x, t, y)[:, : 6 if variance == "learned" else 3]

    x = NOISE
    for step, k in ((1, 2), (2, 1), (3, 0)):
        at = torch.full((2,), float(chain.times[k]), dtype=torch.float64)
        output = network(x, at, Y)
        back = chain.posterior(output, x, torch.full((2,), k))
        x = back.mean + (torch.exp(back.log_variance / 2) * draw(step) if k else 0)
    assert_close_rms(walk(Ancestral(3), network, ddpm, NOISE, Y, draw), x)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_steps_by_hand(eta):
    ddpm, x = DDPM(), NOISE
    signal = [1.0, *(ddpm.signal[k].item() for k in (0, 500, 999))]  # linspace rounds 499.5 to 500
    for step, at, now, before in ((1, 999, 3, 2), (2, 500, 2, 1), (3, 0, 1, 0)):
        now, before = signal[now], signal[before]
        eps = toy(x, torch.full((2,), at).double(), Y)[:, :3]
        data = (x - math.sqrt(1 - now) * eps) / math.sqrt(now)
        spread = eta * math.sqrt((1 - before) / (1 - now)) * math.sqrt(1 - now / before)
        x = math.sqrt(before) * data + math.sqrt(1 - before - spread**2) * eps + spread * draw(step)
    assert_close_rms(walk(DDIM(3, eta=eta), toy, ddpm, NOISE, Y, draw), x)


def test_all_of_eta_is_ancestral_sampling_with_the_small_variance():
    """Song et al. 2021, section 4.1; but for the last step but one, which DDPM clips."""

    def network(x, t, y):
        return toy(x, t, y)[:, :3]

    ddpm = DDPM("small")
    one = walk(Ancestral(20), network, ddpm, NOISE, Y, draw)
    assert_close_rms(walk(DDIM(20, eta=1.0), network, ddpm, NOISE, Y, draw), one)


@pytest.mark.parametrize("solver", [Ancestral(500), DDIM(500), DDIM(500, eta=0.7)], ids=str)
def test_normal_data_come_out_with_their_mean_and_variance(solver):
    ddpm, batch, generator = DDPM("small"), 2000, torch.Generator().manual_seed(1)
    data, tables = Normal(ddpm.path), (ddpm.signal.sqrt(), (1 - ddpm.signal).sqrt())

    def network(x, t, y):
        alpha, sigma = (table[t.long()].view(-1, 1, 1, 1) for table in tables)
        spread = (alpha * data.stds).square() + sigma.square()
        return sigma * (x - alpha * data.mean) / spread

    def kick(step):
        return torch.randn(batch, 1, 1, 3, generator=generator, dtype=torch.float64)

    noise, y = kick(0), torch.zeros(batch, dtype=torch.int64)
    out = walk(solver, network, ddpm, noise, y, kick)
    sampling = 4 * math.sqrt(2 / batch)
    assert ((out.mean(0).flatten() - data.mean) / data.stds).abs().max() < sampling + 0.02
    assert (out.var(0).flatten() / data.stds**2 - 1).abs().max() < sampling + 0.03


@pytest.mark.parametrize("solver", [Ancestral, DDIM])
def test_a_sample_depends_on_its_seed_and_number_alone(solver):
    def sample(indices):
        def kick(step):
            return draw_noise(4, indices, (3, 2, 2), step)

        y = torch.zeros(len(indices), dtype=torch.int64)
        return walk(solver(8), toy, DDPM(), kick(0), y, kick)

    whole = sample([0, 1, 5])
    assert whole.dtype == torch.float32
    assert_close_rms(whole, torch.cat([sample([0]), sample([1, 5])]))
    assert sample([]).shape == (0, 3, 2, 2)


@pytest.mark.parametrize("solver", [Ancestral, DDIM])
def test_one_call_a_step_every_step_reported_and_data_kept_within_bounds(solver):
    calls, seen = [], []

    def network(x, t, y):
        calls.append(t.unique().item())
        return toy(x, t, y)

    def callback(step, of, x):
        seen.append((step, of))

    clipped = walk(solver(5, clip=True), network, DDPM(), NOISE, Y, draw, callback)
    assert calls == [999, 749, 500, 250, 0]
    assert seen == [(i, 5) for i in range(1, 6)]
    assert clipped.abs().max() <= 1 < walk(solver(5), toy, DDPM(), NOISE, Y, draw).abs().max()
    assert walk(solver(1), toy, DDPM(), NOISE, Y, draw).isfinite().all()


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan")])
def test_an_impossible_eta_is_refused(eta):
    with pytest.raises(InputError, match="eta: expected a number"):
        DDIM(eta=eta)


@pytest.mark.parametrize("solver", [Ancestral, DDIM])
def test_impossible_steps_and_networks_are_refused(solver):
    with pytest.raises(InputError, match="expected 1 to 1000 steps, got 1001"):
        walk(solver(1001), toy, DDPM(), NOISE, Y, draw)
    with pytest.raises(InputError, match="expected a network output of 3 channels"):
        walk(solver(2), toy, DDPM("large"), NOISE, Y, draw)
