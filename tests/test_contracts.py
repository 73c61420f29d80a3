"""What every model, process and solver promises, whichever it is (tests/cases.py lists them)."""

from __future__ import annotations

import copy

import pytest
import torch

from convflow.conditions.labels import take
from convflow.models.zoo import load_model
from convflow.processes.ddpm import DDPM
from convflow.processes.flow import TrainingDraws
from convflow.processes.process import Process
from convflow.samplers.guidance import ClassifierFreeGuidance
from convflow.samplers.ode import SCHEMES, integrate, time_grid
from convflow.samplers.tableaus import count_evaluations
from convflow.types import InputError
from tests.cases import (
    MODELS,
    MULTISCALE,
    OF_TEXT,
    PROCESSES,
    SOLVER_NAMES,
    VIDEO_SCALES,
    VIDEOS,
    build,
    build_pyramid,
    exact,
    inputs,
)
from tests.tolerance import BFLOAT16_WEIGHTS, assert_close_rms


@pytest.mark.parametrize("case", [*MODELS, *VIDEOS])
def test_a_model_takes_any_rectangle_and_batch(case):
    model = build(case)
    for batch, size in ((0, (2, 3)), (1, (1, 1)), (2, (5, 3))):
        x, t, y = inputs(model, batch, size)
        out = model(x, t, y)
        channels = x.shape[1] * (2 if model.learned_variance else 1)
        assert (out.shape, out.dtype) == ((batch, channels, *x.shape[2:]), x.dtype)
        assert out.isfinite().all()
        assert out.any() or not batch


@pytest.mark.parametrize("case", [*MODELS, *VIDEOS])
def test_a_new_model_predicts_zero(case):
    model = build(case, perturbed=False)
    assert not model(*inputs(model)).any()


@pytest.mark.parametrize("case", [*MODELS, *VIDEOS])
def test_gradients_reach_every_parameter(case):
    model = build(case)
    x, t, y = inputs(model)
    model(x.requires_grad_(), t, y).square().sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent
    assert x.grad.any()


@pytest.mark.parametrize("case", [*MODELS, *OF_TEXT, *VIDEOS])
def test_a_model_is_a_function_of_each_sample_alone_and_of_all_its_inputs(case):
    model = build(case)
    x, t, y = inputs(model)
    before = torch.get_rng_state()
    out = model(x, t, y)
    for again in (copy.deepcopy(model), model.train()):
        assert again(x, t, y).equal(out)
    assert before.equal(torch.get_rng_state())
    model.eval()
    others = {"x": (x + 0.1, t, y), "t": (x, t * 0.5, y)}
    if model.num_classes:
        others["y"] = (x, t, (y + 1) % model.num_classes)
    if model.takes_text:
        others["y"] = (x, t, take(y, torch.tensor([1, 2, 0])))
    same = [name for name, other in others.items() if out.equal(model(*other))]
    assert not same, "does not matter"
    rows = [take((x, t, y), slice(i, i + 1)) for i in range(len(x))]
    alone = torch.cat([model(*row) for row in rows])
    assert_close_rms(out, alone)


@pytest.mark.parametrize("case", [*MODELS, *VIDEOS])
def test_other_dtypes_have_the_same_function(case):
    model = build(case)
    x, t, y = inputs(model)
    expected = model(x, t, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close_rms(model(x, t, y), expected, torch.bfloat16)
    double = model.double()(x.double(), t.double(), y)
    assert double.dtype == torch.float64
    assert_close_rms(expected, double)
    half = model.bfloat16()(x.bfloat16(), t, y)
    assert half.dtype == torch.bfloat16
    assert_close_rms(half, expected, limit=BFLOAT16_WEIGHTS)


@pytest.mark.parametrize(
    "case",
    ["flowdcn-patch-3", "dico-isotropic-skip", "fcdm-pad", "dit-patch-4", "sit-rotary", "sit-full"],
)
def test_saving_and_loading_is_exact(case, tmp_path):
    model = build(case)
    model.save_pretrained(tmp_path)
    for again in (load_model(tmp_path), type(model).from_pretrained(tmp_path)):
        assert not again.training
        assert again.settings == model.settings
        state, expected = again.state_dict(), model.state_dict()
        assert list(state) == list(expected)
        assert all(state[name].equal(expected[name]) for name in expected)
        assert again(*inputs(model)).equal(model(*inputs(model)))


@pytest.mark.parametrize("case", [*MODELS, *VIDEOS])
def test_pictures_that_do_not_fit_are_refused(case):
    model = build(case)
    x, t, y = inputs(model)
    with pytest.raises(InputError, match=rf"of shape \(B, {model.in_channels}, (F, )?H"):
        model(x[:, :0], t, y)
    with pytest.raises(InputError, match=rf"for other {'videos' if model.video else 'images'}"):
        model(x[:, :, 0] if model.video else x[:, :, None], t, y)
    if model.multiple > 1:
        with pytest.raises(InputError, match=f"multiples of {model.multiple}, got"):
            model(x[..., 1:, :], t, y)


ALL_PROCESSES = PROCESSES | MULTISCALE


def network_for(process):
    if process.multiscale:
        return build_pyramid(factors=process.factors)
    return build("flowdcn-learned-variance" if process.learned_variance else "flowdcn")


def own_times(process, t):
    """Flow times as the process itself counts them."""
    return process.step_at(t) if isinstance(process, DDPM) else t


@pytest.mark.parametrize("case", ALL_PROCESSES)
def test_the_loss_has_one_entry_per_sample_and_draws_from_its_generator_alone(case):
    process = ALL_PROCESSES[case]
    assert isinstance(process, Process)
    model = network_for(process)
    x, _, y = inputs(model, batch=5, size=(4, 8))
    before = torch.get_rng_state()
    losses = [process.loss(model, x, y, torch.Generator().manual_seed(i)) for i in (1, 1, 2)]
    assert before.equal(torch.get_rng_state())
    assert losses[0].shape == (5,)
    assert losses[0].equal(losses[1])
    assert not losses[0].equal(losses[2])
    assert (losses[0] > 0).all()


@pytest.mark.parametrize("case", ALL_PROCESSES)
def test_the_loss_of_some_samples_is_that_of_all(case):
    process = ALL_PROCESSES[case]
    model = network_for(process)
    x, _, y = inputs(model, batch=5, size=(4, 8))
    draws = process.draw(tuple(x.shape), torch.Generator().manual_seed(0))
    some = slice(1, None, 2)
    part = process.loss_at(model, x[some], y[some], take(draws, some))
    assert_close_rms(part, process.loss_at(model, x, y, draws)[some])


@pytest.mark.parametrize("case", ALL_PROCESSES)
def test_a_process_runs_from_noise_to_data(case):
    process, data = ALL_PROCESSES[case], torch.randn(3, 3, 8, 8)
    noise, t, *_ = process.draw(tuple(data.shape), torch.Generator().manual_seed(0))
    end = process.split(data) if process.multiscale else data
    first, last = (
        process.mix(data, noise, own_times(process, torch.full_like(t, time)))
        for time in (0.0, 1.0)
    )
    assert (first - noise).norm() < 0.01 * end.norm()
    assert (last - end).norm() < 0.011 * noise.norm()


@pytest.mark.parametrize("case", PROCESSES)
def test_a_network_that_knows_the_answer_tells_every_kind(case):
    process, t = PROCESSES[case], torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    data, noise = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64).unbind()
    alpha, sigma, alpha_rate, sigma_rate = (f(t.view(3, 1, 1, 1)) for f in process.path[1:])
    own, y = own_times(process, t), torch.arange(3)
    x = process.mix(data, noise, own)
    assert_close_rms(x, alpha * data + sigma * noise)
    answers = {
        "data": data,
        "noise": noise,
        "velocity": alpha_rate * data + sigma_rate * noise,
        "score": -noise / sigma,
    }

    def oracle(x_, t_, y_):
        assert_close_rms(t_, own)
        assert x_.equal(x)
        assert y_.equal(y)
        answer = answers[process.prediction]
        return torch.cat([answer, answer], 1) if process.learned_variance else answer

    for wanted, expected in answers.items():
        assert_close_rms(process.as_prediction(oracle, wanted)(x, t, y), expected)
    if not process.learned_variance:
        assert process.loss_at(oracle, data, y, TrainingDraws(noise, own)).max() < 1e-20


@pytest.mark.parametrize("case", PROCESSES)
def test_the_field_of_any_network_is_finite_at_all_times(case):
    process = PROCESSES[case]
    model = network_for(process)
    x, _, y = inputs(model)
    for time in (0.0, 0.5, 1.0):
        velocity = process.as_prediction(model, "velocity")(x, torch.full((3,), time), y)
        assert velocity.shape == x.shape
        assert velocity.isfinite().all()


@pytest.mark.parametrize("solver", SOLVER_NAMES)
def test_sampling_draws_no_random_numbers(solver):
    model = build("flowdcn")
    noise, _, y = inputs(model)
    before = torch.get_rng_state()
    guided = ClassifierFreeGuidance(model, model.conditions.null, 2.0)
    first, second = (integrate(guided, noise, y, time_grid(3), solver) for _ in range(2))
    assert before.equal(torch.get_rng_state())
    assert first.equal(second)
    assert first.shape == noise.shape
    assert not first.requires_grad


@pytest.mark.parametrize("solver", SOLVER_NAMES)
def test_a_solver_is_exact_on_a_constant_velocity_and_counts_its_evaluations(solver):
    model = exact(lambda x, t: torch.full_like(x, 0.5))
    noise, y = torch.zeros(2, 1, 2, 3), torch.zeros(2, dtype=torch.int64)
    out = integrate(model, noise, y, time_grid(8), solver)
    assert_close_rms(out, torch.full_like(noise, 0.5))
    assert model.calls == count_evaluations(SCHEMES[solver], time_grid(8))


@pytest.mark.parametrize("case", VIDEO_SCALES | PROCESSES)
def test_a_process_of_videos_learns_and_runs_from_noise_to_data(case):
    process = (VIDEO_SCALES | PROCESSES)[case]
    data, generator = torch.randn(3, 3, 8, 16, 16), torch.Generator().manual_seed(0)
    noise, t, *_ = draws = process.draw(tuple(data.shape), generator)
    ends = [process.mix(data, noise, own_times(process, torch.full_like(t, at))) for at in (0.0, 1)]
    end = process.split(data) if process.multiscale else data
    assert (ends[0] - noise).norm() < 0.01 * end.norm()
    assert (ends[1] - end).norm() < 0.011 * noise.norm()
    if process.multiscale:
        assert_close_rms(process.join(end, (8, 16, 16)), data)
        model = build_pyramid(process.factors, axes=process.axes, video=True)
    else:
        model = build("dit-video" if process.learned_variance else "flowdcn-video")
    losses = process.loss_at(model, data, torch.arange(3), draws)
    assert losses.shape == (3,)
    assert (losses > 0).all()
    some = process.loss_at(model, data[:1], torch.arange(1), take(draws, slice(1)))
    assert_close_rms(some, losses[:1])
