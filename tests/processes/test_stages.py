"""The staged sampler: its times, its exactness on a known field, its order, cost and previews."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convflow.conditions.labels import Labels
from convflow.processes.decomposition import DECOMPOSITIONS, pack, unpack
from convflow.processes.multiscale import MultiscaleFlow
from convflow.processes.stages import plan_stages, split_steps, spread
from convflow.samplers.guidance import guide
from convflow.samplers.ode import SCHEMES, integrate, time_grid
from convflow.types import InputError
from tests.processes.staged import integrate_staged, packed, sample_staged, sampler_of
from tests.samplers.equation import order
from tests.samplers.gaussian import Gaussian, moments_of
from tests.tolerance import assert_close_rms

FACTORS = {2: (2,), 3: (2, 2)}
TAUS = {2: (0.7,), 3: (0.8, 0.6)}


def labels(count):
    return torch.zeros(count, dtype=torch.int64)


def staged(data, stages, solver="euler", **more):
    return lambda x: integrate_staged(data, x, labels(len(x)), data.sizes, stages, solver, **more)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.floats(0.05, 1.0))
def test_times_are_straight_tails_that_end_together(steps, threshold):
    scales = len(steps)
    stages = plan_stages(steps, [threshold] * (scales - 1))
    assert [len(stage.start) for stage in stages] == list(range(1, scales + 1))
    assert stages[-1].end == (1.0,) * scales
    for before, after in itertools.pairwise(stages):
        assert after.start == (*before.end, 0.0)
    for scale in range(scales - 1):
        assert stages[scale].end[scale] == threshold
        slopes = [(s.end[scale] - s.start[scale]) / s.steps for s in stages[scale + 1 :]]
        assert slopes == pytest.approx([(1 - threshold) / sum(steps[scale + 1 :])] * len(slopes))


def test_three_scales_by_hand():
    first, second, third = plan_stages((6, 2, 3), (0.9, 0.8))
    assert first == (6, (0.0,), (0.9,))
    assert second == (2, (0.9, 0.0), (pytest.approx(0.94), 0.8))
    assert third == (3, (pytest.approx(0.94), 0.8, 0.0), (1.0, 1.0, 1.0))


def test_the_default_shares_of_the_steps():
    assert split_steps(40, 2) == (30, 10)  # as published
    assert split_steps(40, 3) == (30, 5, 5)
    assert split_steps(50, 3) == (38, 6, 6)
    assert split_steps(28, 4) == (21, 3, 2, 2)
    assert split_steps(2, 2) == (1, 1)
    assert split_steps(7, 1) == (7,)
    with pytest.raises(InputError, match="at least 3 steps, one for each scale, got 2"):
        split_steps(2, 3)


@pytest.mark.parametrize(
    ("steps", "thresholds", "message"),
    [
        ((), (), "at least 1 step"),
        ((3, 0), (0.9,), "at least 1 step"),
        ((3, 1), (), "a threshold for each but the last"),
        ((3, 1), (0.0,), r"thresholds in \(0, 1\]"),
        ((3, 1), (1.1,), r"thresholds in \(0, 1\]"),
    ],
)
def test_plans_that_cannot_be_are_refused(steps, thresholds, message):
    with pytest.raises(InputError, match=message):
        plan_stages(steps, thresholds)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_network_is_asked_at_thresholds_and_ends_exactly(dtype):
    seen = []

    def model(scales, t, y, active=None):
        assert [s.shape[2:] for s in scales] == [(1, 1), (2, 2), (4, 4)][: len(scales)]
        assert t.dtype == dtype
        assert t.shape == (2, len(scales))
        seen.append(t[0].tolist())
        return scales

    process = MultiscaleFlow((2, 2))
    noise = torch.randn(2, 1, 1, 21, dtype=dtype)
    stages = plan_stages((3, 2, 2), (0.7, 0.9))
    integrate_staged(model, noise, labels(2), process.sizes((4, 4)), stages, "heun")
    tau, middle, other = torch.tensor([0.7, 0.85, 0.9], dtype=dtype).tolist()
    assert (seen[0], seen[5]) == ([0.0], [tau])
    assert seen[6] == [tau, 0.0]
    assert seen[9][1] == other
    assert seen[9][0] == pytest.approx(middle)
    assert seen[10] == [seen[9][0], other, 0.0]
    assert seen[-1] == [1.0, 1.0, 1.0]


@given(st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_whatever_the_thresholds_stages_begin_and_end_on_them(first, second):
    seen = []

    def still(scales, t, y, active=None):
        seen.append(t[0].tolist())
        return scales

    stages = plan_stages((1, 1, 1), (first, second))
    noise = torch.zeros(1, 1, 1, 21, dtype=torch.float64)
    integrate_staged(still, noise, labels(1), [(1, 1), (2, 2), (4, 4)], stages, "heun")
    assert seen == [list(times) for stage in stages for times in (stage.start, stage.end)]


@pytest.mark.parametrize("scales", FACTORS)
@pytest.mark.parametrize("name", DECOMPOSITIONS)
def test_the_exact_field_gives_mean_and_covariance_of_every_scale(name, scales):
    """Of images without extra noise; no sampling error, since the whole run is affine."""
    process = MultiscaleFlow(FACTORS[scales], name)
    data = Gaussian(process, (max(4, process.multiple),) * 2)
    stages = plan_stages((60, 40, 40)[:scales], TAUS[scales])
    mean, covariance = moments_of(staged(data, stages, "ab2"), data.count(scales))
    for part in unpack(torch.arange(len(mean))[None, None].double(), data.sizes):
        rows = part.flatten().long()
        assert (mean[rows] - data.part_mean[rows]).abs().max() < 0.005
        block, truth = (c[rows][:, rows] for c in (covariance, data.part_covariance))
        assert (block - truth).norm() < 0.01 * truth.norm()
    assert (covariance - data.part_covariance).norm() < 0.01 * data.part_covariance.norm()


@pytest.mark.parametrize("name", DECOMPOSITIONS)
def test_sampled_pictures_have_the_moments_of_the_data(name):
    """The same through `sample_staged`, with standardised scales, up to the sampling error."""
    process = MultiscaleFlow((2,), name, deviations=(0.4, 0.9))
    size, count = (max(4, process.multiple),) * 2, 4000
    data = Gaussian(process, size)
    stages, noises = plan_stages((40, 20), (0.9,)), torch.randn(2, count, 1, *size).double()
    images = sample_staged(
        data, process, noises[0], labels(count), stages, "ab2", draw=lambda step: noises[step]
    ).flatten(1)
    truth = data.root @ data.root.T
    limit = 4 * (truth.diagonal() / count).sqrt()  # four standard errors
    assert ((images.mean(0) - data.mean).abs() < limit + 0.01).all()
    spread = (truth.diagonal()[:, None] * truth.diagonal() + truth.square()) / count
    assert ((images.T.cov() - truth).abs() < 4.5 * spread.sqrt() + 0.01).all()


@pytest.mark.parametrize("scales", FACTORS)
@pytest.mark.parametrize("solver", ["euler", "heun", "ab2", "ab3"])
def test_the_measured_order_is_the_solvers(solver, scales):
    data = Gaussian(MultiscaleFlow(FACTORS[scales], "haar"), (4, 4), extra=0.3)
    grids, errors = [4, 6, 8, 12], []
    for n in grids:
        stages = plan_stages([6 * n, 4 * n, 4 * n][:scales], TAUS[scales])
        data.calls = 0
        mean, covariance = moments_of(staged(data, stages, solver), data.count(scales))
        off = covariance - data.part_covariance
        errors.append((off.square().sum() + (mean - data.part_mean).square().sum()).sqrt().item())
        assert data.calls == sampler_of(stages, solver).count_evaluations(data.process)
    assert order(grids, errors) == pytest.approx(SCHEMES[solver].order, abs=0.25)


def test_the_cost_is_that_of_the_stages():
    stages = plan_stages((30, 10), (0.9,))
    costs = {
        name: sampler_of(stages, name).count_evaluations(MultiscaleFlow())
        for name in ("euler", "heun", "ab2")
    }
    assert costs == {"euler": 40, "heun": 80, "ab2": 42}  # ab2 starts twice with Heun


@pytest.mark.parametrize("solver", SCHEMES)
def test_a_sample_does_not_see_its_neighbours(solver):
    data = Gaussian(MultiscaleFlow((2, 2)), (4, 4), extra=0.3)
    run = staged(data, plan_stages((3, 2, 2), TAUS[3]), solver)
    noise = torch.randn(4, 1, 1, data.count(3), dtype=torch.float64)
    assert_close_rms(run(noise), torch.cat([run(noise[i : i + 1]) for i in range(4)]))


@pytest.mark.parametrize("solver", ["euler", "heun", "ab3"])
def test_an_early_stop_is_a_run_of_one_scale(solver):
    process = MultiscaleFlow((2, 2), "laplacian", deviations=(0.5, 0.2, 0.1))
    data = Gaussian(process, (4, 8), extra=0.3)
    noises = torch.randn(2, 3, 1, 4, 8, dtype=torch.float64)
    stages = plan_stages((6,), ())
    out = sample_staged(
        data, process, noises[0], labels(3), stages, solver, draw=lambda step: noises[step]
    )

    def alone(x, t, y):
        return data((x,), t[:, None], y)[0]

    start = noises[0].flatten(2)[:, :, :2].view(3, 1, 1, 2)
    assert_close_rms(out, 0.5 * integrate(alone, start, labels(3), time_grid(6), solver))
    assert out.shape == (3, 1, 1, 2)


def test_two_of_three_scales_are_a_run_of_two():
    process, two = MultiscaleFlow((2, 2)), MultiscaleFlow((2,))
    data = Gaussian(process, (8, 8), extra=0.3)
    noise, stages = torch.randn(2, 1, 8, 8, dtype=torch.float64), plan_stages((4, 3), (0.9,))
    out = sample_staged(data, process, noise, labels(2), stages, draw=lambda step: noise)
    flat = noise.flatten(2)[:, :, None, : 4 + 16]
    state = integrate_staged(data, flat, labels(2), data.sizes, stages)
    assert_close_rms(out, two.join(state, (4, 4)))
    assert out.shape == (2, 1, 4, 4)


def test_noise_goes_on_where_the_first_draw_ends():
    draws = [torch.randn(2, 3, 2, 4) for _ in range(3)]
    process, asked, stages = MultiscaleFlow((2,)), [], plan_stages((1, 1), (0.9,))
    begun = process.start(draws[0], asked.append, stages[0])
    assert begun.equal(draws[0].flatten(2)[:, :, None, :2])
    assert not asked
    noise = process.start(
        draws[0], lambda step: asked.append(step) or draws[step], stages[1], begun + 1
    )
    assert asked == [1]
    assert noise[..., :2].equal(begun + 1)
    flat = torch.cat([d.flatten(2) for d in draws], 2)[:, :, None, :10]
    assert noise[..., 2:].equal(flat[..., 2:])


class ByLabel:
    """Every velocity is the label + 1; remembers batches and times."""

    def __init__(self):
        self.asked = []

    def __call__(self, scales, t, y, active=None):
        self.asked.append((len(y), t[0].tolist()))
        return [torch.ones_like(s) * (y + 1).view(-1, 1, 1, 1) for s in scales]


@pytest.mark.parametrize("channels", [None, 1])
def test_the_interval_counts_in_each_scales_own_time(channels):
    sizes, y = [(1, 2), (2, 4)], torch.tensor([1, 3])
    x = torch.randn(2, 2, 1, 10)
    t, clock = torch.tensor([0.95, 0.4]).expand(2, 2), partial(spread, sizes=sizes)

    def guided(interval):
        model = ByLabel()
        options = {"interval": interval, "channels": channels, "clock": clock}
        denoiser = guide(packed(model, sizes), Labels(5).null, 3.0, **options)
        return unpack(denoiser(x, t, y), sizes), model.asked

    plain = (y + 1).view(2, 1, 1, 1).float()
    strong = 6 + 3 * (plain - 6)  # the label for none gives 6
    times = pytest.approx([0.95, 0.4])
    for interval, expected in (
        ((0.0, 1.0), (strong, strong)),
        ((0.5, 1.0), (strong, plain)),
        ((0.3, 0.5), (plain, strong)),
        ((0.1, 0.2), (plain, plain)),
    ):
        scales, asked = guided(interval)
        assert asked == [(2 if interval == (0.1, 0.2) else 4, times)]
        for scale, value in zip(scales, expected, strict=True):
            assert_close_rms(scale[:, :1], value.expand_as(scale[:, :1]))
            rest = value if channels is None else plain
            assert_close_rms(scale[:, 1:], rest.expand_as(scale[:, 1:]))


def test_cfg_zero_keeps_young_scales_still_and_scales_the_weak_prediction():
    sizes, y = [(1, 2), (2, 4)], torch.tensor([1, 3])
    t, clock = torch.tensor([0.95, 0.01]).expand(2, 2), partial(spread, sizes=sizes)
    denoiser = guide(packed(ByLabel(), sizes), Labels(5).null, 3.0, "cfg-zero", clock=clock)
    old, young = unpack(denoiser(torch.randn(2, 1, 1, 10), t, y), sizes)
    assert not young.any()
    # The closest multiple of a constant weak prediction is the strong one: no guidance is left.
    assert_close_rms(old, (y + 1).view(2, 1, 1, 1).expand_as(old).float())


@pytest.mark.parametrize("kind", ["cfg", "cfg-zero"])
def test_guidance_of_one_is_none_and_one_batch_has_both_branches(kind):
    process, noise = MultiscaleFlow((2,)), torch.randn(2, 1, 1, 5)
    runs = []
    for scale in (1.0, 2.0):
        model = ByLabel()
        out = integrate_staged(
            model,
            noise,
            torch.tensor([0, 4]),
            process.sizes((2, 2)),
            plan_stages((2, 1), (0.9,)),
            null=Labels(5).null,
            scale=scale,
            kind=kind,
        )
        runs.append((out, [count for count, _ in model.asked]))
    assert [counts for _, counts in runs] == [[2, 2, 2], [4, 4, 4]]
    # Over all steps each scale moves by (label + 1) times its time.
    assert_close_rms(runs[0][0], noise + torch.tensor([1.0, 5.0]).view(2, 1, 1, 1))
    assert not runs[0][0].allclose(runs[1][0])


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_the_running_picture_ends_as_the_result(stop):
    process = MultiscaleFlow((2, 2), "laplacian", deviations=(0.5, 0.2, 0.1))
    data = Gaussian(process, (8, 8), extra=0.3)
    noise, seen = torch.randn(2, 1, 8, 8, dtype=torch.float64), []
    stages = plan_stages((4, 3, 2)[:stop], (0.9, 0.8)[: stop - 1])
    out = sample_staged(
        data,
        process,
        noise,
        labels(2),
        stages,
        draw=lambda step: noise,
        callback=lambda *reported: seen.append(reported),
    )
    total = sum((4, 3, 2)[:stop])
    assert [reported[:2] for reported in seen] == [(i + 1, total) for i in range(total)]
    assert all(reported[2].shape == out.shape for reported in seen)
    assert seen[-1][2].equal(out)


def test_the_running_picture_is_the_sum_of_the_states_grown():
    process = MultiscaleFlow((2,), "haar", deviations=(2.0, 1.0))
    noise, seen = torch.randn(1, 1, 2, 2), []

    def still(scales, t, y, active=None):
        return [torch.zeros_like(s) for s in scales]

    stages = plan_stages((1, 1), (0.9,))
    out = sample_staged(
        still, process, noise, labels(1), stages, draw=lambda step: noise + step,
        callback=lambda step, of, x: seen.append(x),
    )  # fmt: skip
    flat = noise.flatten()
    assert_close_rms(seen[0], (2 * flat[0]).expand(1, 1, 2, 2))
    fine = torch.cat([flat[1:], flat[:1] + 1]).view(1, 1, 2, 2)
    assert_close_rms(out, 2 * flat[0] + fine)


def test_numbers_of_scales_are_spread_over_their_cells():
    numbers = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    expected = pack(
        [
            numbers[:, :1, None, None].expand(2, 1, 1, 2),
            numbers[:, 1:, None, None].expand(2, 1, 2, 2),
        ]
    )
    assert spread(numbers, [(1, 2), (2, 2)]).equal(expected)
    assert spread(numbers[:, :1], [(1, 2), (2, 2)]).shape == (2, 1, 1, 2)
