"""Flow matching: the path, its velocity, how times are drawn, and what the loss measures."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convflow.processes.flow import FlowMatching, TrainingDraws, shift_of_size, shift_times
from convflow.processes.prediction import Kind
from convflow.processes.schedule import SCHEDULES
from convflow.types import InputError
from tests.cases import exact
from tests.tolerance import assert_close_rms

MANY = 40_000


def times(process: FlowMatching, seed: int = 0) -> torch.Tensor:
    return process.draw_times(MANY, torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_velocity_is_the_derivative_of_the_path(schedule):
    data, noise = torch.randn(2, 3, 2, 4, 5, dtype=torch.float64).unbind()
    t = torch.rand(3, dtype=torch.float64)
    process = FlowMatching(schedule=schedule)
    _, velocity = torch.autograd.functional.jvp(
        lambda t: process.mix(data, noise, t), t, torch.ones_like(t)
    )
    assert_close_rms(process.target(data, noise, t), velocity)


def test_the_path_is_straight():
    data, noise = torch.randn(2, 2, 1, 3, 3, dtype=torch.float64).unbind()
    t = torch.tensor([0.3, 0.8], dtype=torch.float64)
    for i, s in enumerate(t):
        mixed = FlowMatching().mix(data, noise, t)[i]
        assert_close_rms(mixed, s * data[i] + (1 - s) * noise[i])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_half_pictures_are_mixed_at_the_time_itself(schedule):
    """0.7 is 0.69921875 in bfloat16; the network is told 0.7."""
    data = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    process, noise, t = FlowMatching(schedule=schedule), torch.zeros_like(data), torch.tensor([0.7])
    alpha = process.path.alpha(t.double())
    assert process.mix(data, noise, t).equal((alpha * data.double()).bfloat16())


# Kolmogorov-Smirnov: the largest gap of two distribution functions is below 1.63 / sqrt(n) in
# 99 % of all draws; seeds are fixed, so these never fail by chance.
@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
def test_uniform_times_have_their_distribution(shift):
    t = times(FlowMatching(shift=shift)).sort().values
    before = t * shift / (1 - t + t * shift)  # undoes the shift
    gap = (before - (torch.arange(MANY) + 0.5) / MANY).abs().max()
    assert gap < 1.63 / MANY**0.5


@pytest.mark.parametrize(("location", "scale"), [(0.0, 1.0), (-0.8, 0.5), (1.0, 2.0)])
def test_logit_normal_times_have_their_distribution(location, scale):
    process = FlowMatching(times="logit-normal", location=location, scale=scale)
    t = times(process).sort().values
    normal = (torch.logit(t) - location) / scale
    distribution = 0.5 * (1 + torch.erf(normal / math.sqrt(2)))
    gap = (distribution - (torch.arange(MANY) + 0.5) / MANY).abs().max()
    assert gap < 1.63 / MANY**0.5
    assert (t[0] >= 0) & (t[-1] <= 1)


def test_a_logit_normal_shift_only_moves_its_location():
    plain = times(FlowMatching(times="logit-normal", location=0.3 - math.log(3.0)))
    shifted = times(FlowMatching(times="logit-normal", location=0.3, shift=3.0))
    torch.testing.assert_close(shifted, plain, rtol=1e-4, atol=1e-6)


@given(st.floats(0, 1), st.floats(1e-3, 1e3))
def test_shift_keeps_the_ends_the_order_and_has_an_inverse(t, shift):
    assert shift_times(0.0, shift) == 0
    assert shift_times(1.0, shift) == 1
    assert (shift_times(t, shift) <= t) == (shift >= 1) or t in (0, 1) or shift == 1
    assert shift_times(shift_times(t, shift), 1 / shift) == pytest.approx(t, abs=1e-12)


def test_the_default_is_what_it_was_to_the_bit():
    """Runs begun before there were schedules go on with the same numbers."""
    data, y = torch.randn(3, 2, 40, 50), torch.zeros(3, dtype=torch.int64)
    generator = torch.Generator().manual_seed(5)
    t, noise = torch.rand(3, generator=generator), torch.randn(3, 2, 40, 50, generator=generator)
    x = torch.lerp(noise, data, t.view(-1, 1, 1, 1))
    assert FlowMatching().mix(data, noise, t).equal(x)
    assert FlowMatching().target(data, noise, t).equal(data - noise)
    expected = (x.sin() - (data - noise)).square().flatten(1).mean(1)
    model = exact(lambda x, t: x.sin())
    assert FlowMatching().loss(model, data, y, torch.Generator().manual_seed(5)).equal(expected)
    assert FlowMatching().as_prediction(model, "velocity") is model


def test_draws_follow_the_generator_alone():
    process = FlowMatching()
    first, again = (process.draw((4, 1, 2, 3), torch.Generator().manual_seed(3)) for _ in "ab")
    assert first.noise.equal(again.noise)
    assert first.t.equal(again.t)
    assert first.noise.shape == (4, 1, 2, 3)
    assert first.t.shape == (4,)


def test_the_loss_is_the_mean_square_of_each_sample():
    process, y = FlowMatching(), torch.zeros(3, dtype=torch.int64)
    data = torch.randn(3, 2, 4, 5)
    draws = process.draw((3, 2, 4, 5), torch.Generator().manual_seed(0))
    zero = exact(lambda x, t: torch.zeros_like(x))
    losses = process.loss_at(zero, data, y, draws)
    expected = torch.stack(
        [(d - n).square().mean() for d, n in zip(data, draws.noise, strict=True)]
    )
    assert_close_rms(losses, expected)


def test_the_loss_of_the_answer_is_zero_and_the_model_sees_the_path():
    process, y = FlowMatching(), torch.arange(3)
    data = torch.randn(3, 2, 4, 5)
    draws = process.draw((3, 2, 4, 5), torch.Generator().manual_seed(0))

    def oracle(x, t, labels):
        assert x.equal(process.mix(data, *draws))
        assert t.equal(draws.t)
        assert labels.equal(y)
        return data - draws.noise

    assert not process.loss_at(oracle, data, y, draws).any()


@pytest.mark.parametrize(
    ("low", "full"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)]
)
def test_the_loss_is_summed_in_float32_at_least(low, full):
    data, noise = torch.randn(2, 2, 1, 4, 4, dtype=full).unbind()
    draws = TrainingDraws(noise, torch.tensor([0.2, 0.7]))
    model = exact(lambda x, t: torch.full_like(x, 1 / 3, dtype=low))
    losses = FlowMatching().loss_at(model, data, torch.zeros(2, dtype=torch.int64), draws)
    third = torch.tensor(1 / 3, dtype=low).double()
    expected = (third - (data - draws.noise).double()).square().flatten(1).mean(1)
    assert losses.dtype == full
    assert_close_rms(losses, expected)


@pytest.mark.parametrize("prediction", get_args(Kind))
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_exact_prediction_for_a_gaussian_has_the_least_loss(schedule, prediction):
    """Data N(m, s^2), noise N(0, 1): E[data | x_t] is affine in x_t, in closed form."""
    mean, spread = 0.7, 0.5
    process = FlowMatching(schedule=schedule, prediction=prediction)
    generator = torch.Generator().manual_seed(0)
    data = mean + spread * torch.randn(20_000, 1, 1, 2, generator=generator)
    draws = process.draw(tuple(data.shape), generator)
    y = torch.zeros(len(data), dtype=torch.int64)

    def answer(x, t, gain, bias):
        alpha, sigma = process.path.alpha(t), process.path.sigma(t)
        share = alpha * spread**2 / ((alpha * spread) ** 2 + sigma**2)
        data = mean + share * (x - alpha * mean)
        row = process.row(x, t.flatten())
        noise = (x - alpha * data) / sigma
        return gain * (row.data * data + row.noise * noise) / row.scale + bias / row.scale

    def loss(gain=1.0, bias=0.0):
        model = exact(lambda x, t: answer(x, t, gain, bias))
        return process.loss_at(model, data, y, draws).mean().item()

    assert loss() < min(loss(0.9), loss(1.1), loss(bias=0.1), loss(bias=-0.1))
    if (schedule, prediction) == ("linear", "velocity"):
        # What is left is Var(data - noise | x_t), here averaged over t by quadrature.
        t = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
        left = spread**2 / ((t * spread) ** 2 + (1 - t) ** 2)
        assert loss() == pytest.approx(left.mean().item(), rel=0.02)


def test_a_learned_variance_is_refused():
    data, y = torch.randn(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64)
    model = exact(lambda x, t: torch.cat([x, x], 1))
    with pytest.raises(InputError, match="expected a prediction of 1 channels, got 2"):
        FlowMatching().loss(model, data, y, torch.Generator())


def test_options_that_do_not_exist_are_refused(unchecked):
    with pytest.raises(InputError, match=r"'lognormal'; did you mean 'logit-normal'\?"):
        FlowMatching(times="lognormal")
    with pytest.raises(InputError, match=r"unknown schedule 'cosin'; did you mean 'cosine'\?"):
        FlowMatching(schedule="cosin")
    with pytest.raises(
        InputError, match="prediction: expected data or noise or velocity or score, got 'eps'"
    ):
        FlowMatching(prediction="eps")
    for bad in ({"shift": 0.0}, {"shift": -1.0}, {"scale": 0.0}, {"shift": math.nan}):
        with pytest.raises(InputError, match=r"(shift|scale): expected a number above 0, got"):
            FlowMatching(**bad)


def test_it_says_what_it_predicts():
    assert FlowMatching().prediction == "velocity"


@pytest.mark.parametrize(
    ("size", "trained", "shift"),
    [
        ((8, 8), (8, 8), 1.0),
        ((16, 16), (8, 8), 2.0),
        ((4, 16), (8, 8), 1.0),
        ((8, 4), (8, 16), 0.5),
    ],
)
def test_the_shift_of_a_size_is_the_root_of_its_pixels(size, trained, shift):
    assert shift_of_size(size, trained) == pytest.approx(shift)


def test_a_larger_size_is_as_noisy_at_the_shifted_time():
    """With s times the side a constant image is known s times as well, and less so by the shift.

    The mean of n pixels of x_t / alpha has the error sigma / alpha / sqrt(n) (SD3, section 5.3.2).
    """
    shift = shift_of_size((24, 24), (8, 8))
    for t in (0.1, 0.5, 0.9):
        shifted = shift_times(t, shift)
        assert shifted < t
        assert (1 - shifted) / shifted / 24 == pytest.approx((1 - t) / t / 8)


@pytest.mark.parametrize("sizes", [((0, 8), (8, 8)), ((8, 8), (8, -1))])
def test_a_size_of_nothing_is_refused(sizes):
    with pytest.raises(InputError, match="expected sides above 0"):
        shift_of_size(*sizes)


def test_the_time_of_a_flow_is_what_the_network_is_told():
    t = torch.rand(3)
    assert FlowMatching(shift=3.0, schedule="cosine").flow_time(t) is t
