"""What every model, process and solver promises, whichever it is (tests/cases.py lists them)."""

from __future__ import annotations

import copy

import pytest
import torch

from convflow.models.zoo import load_model
from convflow.samplers.guidance import ClassifierFreeGuidance
from convflow.samplers.ode import SOLVERS, integrate, time_grid
from convflow.samplers.tableaus import count_evaluations
from convflow.types import InputError
from tests.cases import MODELS, PROCESSES, SOLVER_NAMES, build, exact, inputs
from tests.tolerance import assert_close_rms


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize(("batch", "size"), [(1, (1, 1)), (1, (3, 5)), (3, (4, 2)), (5, (2, 7))])
def test_a_model_takes_any_rectangle_and_batch(case, batch, size):
    model = build(case)
    x, t, y = inputs(model, batch, size)
    out = model(x, t, y)
    channels = x.shape[1] * (2 if model.learned_variance else 1)
    assert (out.shape, out.dtype) == ((batch, channels, *x.shape[2:]), x.dtype)
    assert out.isfinite().all()
    assert out.any()


@pytest.mark.parametrize("case", MODELS)
def test_a_new_model_predicts_zero(case):
    model = build(case, perturbed=False)
    assert not model(*inputs(model)).any()


@pytest.mark.parametrize("case", MODELS)
def test_gradients_reach_every_parameter(case):
    model = build(case)
    x, t, y = inputs(model)
    model(x.requires_grad_(), t, y).square().sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent
    assert x.grad.any()


@pytest.mark.parametrize("case", MODELS)
def test_every_input_matters(case):
    model = build(case)
    x, t, y = inputs(model)
    out = model(x, t, y)
    assert not out.equal(model(x + 0.1, t, y))
    assert not out.equal(model(x, t * 0.5, y))
    if model.num_classes:
        assert not out.equal(model(x, t, (y + 1) % model.num_classes))


@pytest.mark.parametrize("case", MODELS)
def test_a_sample_does_not_see_its_neighbours(case):
    model = build(case)
    x, t, y = inputs(model)
    alone = torch.cat([model(x[i : i + 1], t[i : i + 1], y[i : i + 1]) for i in range(len(x))])
    assert_close_rms(model(x, t, y), alone)


@pytest.mark.parametrize("case", MODELS)
def test_forward_is_deterministic_and_draws_no_random_numbers(case):
    model = build(case)
    before = torch.get_rng_state()
    first, second, third = (f(*inputs(model)) for f in (model, model, copy.deepcopy(model)))
    assert first.equal(second)
    assert first.equal(third)
    assert before.equal(torch.get_rng_state())


@pytest.mark.parametrize("case", MODELS)
def test_training_mode_changes_nothing(case):
    model = build(case)
    assert model.eval()(*inputs(model)).equal(model.train()(*inputs(model)))


@pytest.mark.parametrize("case", MODELS)
def test_float64_is_the_same_function(case):
    model = build(case)
    x, t, y = inputs(model)
    single = model(x, t, y)
    double = model.double()(x.double(), t.double(), y)
    assert double.dtype == torch.float64
    assert_close_rms(single, double)


@pytest.mark.parametrize("case", MODELS)
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


@pytest.mark.parametrize("case", MODELS)
def test_pictures_that_do_not_fit_are_refused(case):
    model = build(case)
    x, t, y = inputs(model)
    with pytest.raises(InputError, match=rf"expected pictures of shape \(B, {model.in_channels}"):
        model(x[:, :0], t, y)
    if model.multiple > 1:
        with pytest.raises(InputError, match=f"multiples of {model.multiple}, got"):
            model(x[:, :, 1:], t, y)


@pytest.mark.parametrize("case", PROCESSES)
def test_the_loss_has_one_entry_per_sample_and_draws_from_its_generator_alone(case):
    process, model = PROCESSES[case], build("flowdcn")
    x, _, y = inputs(model, batch=5)
    before = torch.get_rng_state()
    losses = [process.loss(model, x, y, torch.Generator().manual_seed(i)) for i in (1, 1, 2)]
    assert before.equal(torch.get_rng_state())
    assert losses[0].shape == (5,)
    assert losses[0].equal(losses[1])
    assert not losses[0].equal(losses[2])
    assert (losses[0] > 0).all()


@pytest.mark.parametrize("case", PROCESSES)
def test_a_process_runs_from_noise_to_data(case):
    process = PROCESSES[case]
    data, noise = torch.randn(2, 3, 3, 4, 4).unbind()
    assert process.mix(data, noise, torch.zeros(3)).equal(noise)
    assert process.mix(data, noise, torch.ones(3)).equal(data)


@pytest.mark.parametrize("solver", SOLVER_NAMES)
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_sampling_draws_no_random_numbers(solver, guidance):
    model = build("flowdcn")
    noise, _, y = inputs(model)
    before = torch.get_rng_state()
    guided = ClassifierFreeGuidance(model, model.num_classes, guidance)
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
    assert model.calls == count_evaluations(SOLVERS[solver], time_grid(8))
