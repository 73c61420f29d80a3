"""Multi-scale flow: its draws, its loss and the loss's minimum, its standardised scales."""

from __future__ import annotations

import itertools
import math
from functools import cache

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from convflow.conditions.labels import take
from convflow.processes.contract import Stage
from convflow.processes.decomposition import DECOMPOSITIONS, pack, unpack
from convflow.processes.multiscale import MultiscaleFlow, ScaleDraws
from convflow.processes.schedule import LINEAR
from convflow.processes.stages import spread
from convflow.types import InputError
from tests.samplers.gaussian import Gaussian
from tests.tolerance import assert_close_rms

SEVERAL = MultiscaleFlow((2, 2), probabilities=(0.5, 0.3, 0.2), scale=0.8, earlier_scale=1.2)


def draws_of(process, count=40_000, seed=0):
    return process.draw((count, 1, 4, 4), torch.Generator().manual_seed(seed))


def test_defaults_are_the_papers():
    two, four = MultiscaleFlow(), MultiscaleFlow((2, 2, 4))
    assert two.shares == pytest.approx((0.9, 0.1))
    assert four.shares == pytest.approx((0.9, 0.1 / 3, 0.1 / 3, 0.1 / 3))
    assert (two.means, two.scale) == ((0, 0), 1)
    assert (two.earlier_location, two.earlier_scale) == (1.5, 1)
    assert (two.path, two.prediction) == (LINEAR, "velocity")
    assert not two.learned_variance


def test_the_main_scale_is_drawn_for_each_sample():
    active = draws_of(SEVERAL).active
    shares = torch.bincount(active, minlength=4)[1:] / len(active)
    # Four standard deviations of a share.
    assert (shares - torch.tensor([0.5, 0.3, 0.2])).abs().max() < 4 * (0.25 / len(active)) ** 0.5
    assert len(active[:20].unique()) == 3


def test_times_lean_to_data_before_the_main_scale_and_are_zero_after_it():
    _, t, active = draws_of(SEVERAL)
    for main in (1, 2, 3):
        rows = t[active == main].double()
        assert not rows[:, main:].any()
        logit = rows[:, :main].logit()
        count = len(rows)
        for scale in range(main):
            location, std = (0.0, 0.8) if scale == main - 1 else (1.5, 1.2)
            z = (logit[:, scale] - location) / std
            assert z.mean().abs() < 4 / count**0.5
            assert (z.std() - 1).abs() < 4 / (2 * count) ** 0.5
            for level in (-1.0, 0.0, 1.0):  # the distribution, not its moments alone
                share = 0.5 * (1 + math.erf(level / 2**0.5))
                assert abs((z < level).double().mean() - share) < 2 / count**0.5
        correlation = logit.T.corrcoef() if main > 1 else torch.eye(1)
        off = correlation - torch.eye(main)
        assert off.abs().max() < 4 / count**0.5


def test_noise_is_normal_and_its_own_for_each_scale():
    noise = draws_of(SEVERAL).noise.flatten(1)
    assert noise.shape[1] == 1 + 4 + 16
    assert (noise.T.cov() - torch.eye(21)).abs().max() < 0.03
    taken = take(draws_of(SEVERAL, 9), slice(1, None, 3))
    assert isinstance(taken, ScaleDraws)
    assert taken.noise.equal(draws_of(SEVERAL, 9).noise[1::3])
    assert taken.active.equal(draws_of(SEVERAL, 9).active[1::3])


@pytest.mark.parametrize("name", DECOMPOSITIONS)
def test_splitting_and_joining_with_deviations(name):
    process = MultiscaleFlow((2, 2), name, deviations=(2.0, 0.5, 0.1))
    x = torch.randn(2, 3, 16, 32, dtype=torch.float64)
    state = process.split(x)
    parts = process.scales.split(x)
    for part, own, by in zip(unpack(state, process.sizes((16, 32))), parts, (2, 0.5, 0.1)):  # noqa: B905
        assert_close_rms(part * by, own)
    assert_close_rms(process.join(state, (16, 32)), x)
    half = process.scales.join(parts[:2])
    assert_close_rms(process.join(state[..., : 32 + 128], (16, 32)), half)


def test_measured_deviations_give_scales_of_deviation_one():
    x = 3 + torch.randn(500, 3, 8, 8) * torch.linspace(0.2, 1, 8)
    found = MultiscaleFlow((2,), "haar", standardize=True).measure(x.split(120))
    process = MultiscaleFlow((2,), "haar", standardize=True, deviations=found)
    for part in unpack(process.split(x), process.sizes((8, 8))):
        assert part.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    with pytest.raises(InputError, match="images whose scales vary"):
        process.measure([torch.ones(2, 1, 4, 4)])


def test_standardised_scales_must_be_measured_first():
    process = MultiscaleFlow(standardize=True)
    assert process.unmeasured
    with pytest.raises(InputError, match="expected the deviations of the scales"):
        process.split(torch.zeros(1, 1, 4, 4))


def test_half_pictures_are_mixed_at_the_time_itself():
    """0.7 is 0.69921875 in bfloat16; the network is told 0.7."""
    data, t = torch.zeros(1, 3, 8, 8).bfloat16(), torch.full((1, 2), 0.7)
    noise = torch.randn(1, 3, 1, 80, generator=torch.Generator().manual_seed(0)).bfloat16()
    mixed = MultiscaleFlow().mix(data, noise, t)
    assert mixed.equal(((1 - t[0, 0].double()) * noise.double()).bfloat16())


def test_the_loss_by_hand():
    process = MultiscaleFlow((2,), "haar", weights=(2.0, 3.0), deviations=(0.5, 0.25))
    data = torch.randn(3, 2, 2, 2)
    draws = process.draw((3, 2, 2, 2), torch.Generator().manual_seed(0))
    draws = draws._replace(active=torch.tensor([1, 2, 2]))
    shown = []

    def model(scales, t, y, active=None):
        shown.append((scales, t, active))
        return [0.5 * scale for scale in scales]

    losses = process.loss_at(model, data, torch.zeros(3, dtype=torch.int64), draws)
    coarse, fine = process.scales.split(data)
    (seen, t, active) = shown[0]
    assert t.equal(draws.t)
    assert active.equal(draws.active)
    for i in range(3):
        expected = 0.0
        for scale, (part, by, rows) in enumerate(
            ((coarse, 0.5, slice(0, 1)), (fine, 0.25, slice(1, 5)))
        ):
            part = part[i] / by
            noise = draws.noise[i, :, 0, rows].view(part.shape)
            x = t[i, scale] * part + (1 - t[i, scale]) * noise
            if scale < active[i]:
                assert_close_rms(seen[scale][i], x)
                error = (0.5 * x - (part - noise)).square().mean()
                expected = expected + (2.0, 3.0)[scale] * error
            else:
                assert not seen[scale][i].any()
        assert losses[i].item() == pytest.approx(float(expected), rel=1e-5)


def test_what_is_said_of_scales_that_take_no_part_does_not_count():
    process = MultiscaleFlow((2,))
    data, y = torch.randn(4, 1, 4, 4), torch.zeros(4, dtype=torch.int64)
    draws = process.draw((4, 1, 4, 4), torch.Generator().manual_seed(0))
    draws = draws._replace(active=torch.ones(4, dtype=torch.int64))

    def says(fine):
        return lambda scales, t, y, active=None: (scales[0], torch.full_like(scales[1], fine))

    one, other = (process.loss_at(says(fine), data, y, draws) for fine in (0.0, 9.0))
    assert one.equal(other)
    assert (one > 0).all()


def test_the_target_is_the_velocity_of_the_path():
    process = MultiscaleFlow((2, 2), "dct", deviations=(1.0, 0.5, 0.2))
    data = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    noise = torch.randn(2, 3, 1, 16 + 64 + 256, dtype=torch.float64)
    t = torch.rand(2, 3, dtype=torch.float64)
    ahead = process.mix(data, noise, t + 1e-3) - process.mix(data, noise, t - 1e-3)
    assert_close_rms(ahead / 2e-3, process.target(data, noise), limit=1e-9)


PERTURBATIONS = {
    "coarse constant": lambda x, parts: (torch.ones_like(parts[0]), 0 * parts[1]),
    # A constant would do nothing: details have no mean, so what x has of it is noise.
    "fine pattern": lambda x, parts: (
        0 * parts[0],
        0 * parts[1] + torch.arange(float(parts[1].shape[-1])) % 3,
    ),
    "coarse from itself": lambda x, parts: (x[0], 0 * parts[1]),
    "fine from itself": lambda x, parts: (0 * parts[0], x[1]),
    "fine from coarse": lambda x, parts: (0 * parts[0], x[0].repeat(1, 1, 2, 2)),
    "coarse from fine": lambda x, parts: (x[1][:, :, ::2, ::2], 0 * parts[1]),
    "the answer itself": lambda x, parts: parts,
}


@cache
def known(name):
    """A process, images, draws of it, and what the exact field says of them."""
    process = MultiscaleFlow((2,), name, probabilities=(0.4, 0.6), weights=(1.0, 2.0))
    size, count = (max(4, process.multiple),) * 2, 6000
    exact = Gaussian(process, size)
    data, y = exact.draw(count), torch.zeros(count, dtype=torch.int64)
    noise, t, active = process.draw((count, 1, *size), torch.Generator().manual_seed(1))
    draws, said = ScaleDraws(noise.double(), t.double().clamp(max=0.98), active), []

    def model(scales, t, y, active=None):
        blocks = zip(*(x.split(1000) for x in (*scales, t, y)), strict=True)
        parts = [exact(block[:2], *block[2:]) for block in blocks]
        said.extend(torch.cat(velocities) for velocities in zip(*parts, strict=True))
        return said

    process.loss_at(model, data, y, draws)
    return process, data, draws, said


@pytest.mark.parametrize("name", DECOMPOSITIONS)
@pytest.mark.parametrize("which", PERTURBATIONS)
def test_the_exact_field_is_the_minimum_of_the_loss(name, which):
    """Along a direction the loss is a parabola, its lowest point at the exact field."""
    process, data, draws, velocity = known(name)
    count = len(data)
    y = torch.zeros(count, dtype=torch.int64)

    def losses(amount):
        def model(scales, t, y, active=None):
            step = PERTURBATIONS[which](scales, velocity)
            return [v + amount * g for v, g in zip(velocity, step, strict=True)]

        return process.loss_at(model, data, y, draws)

    lower, middle, upper = (losses(amount) for amount in (-0.3, 0.0, 0.3))
    slope, curve = (upper - lower) / 0.6, (upper + lower - 2 * middle).mean() / 0.09
    error = slope.std() / count**0.5
    assert slope.mean().abs() < 4 * error
    assert error < 0.05 * curve  # otherwise the line above would prove little
    assert middle.mean() < min(lower.mean(), upper.mean())


class Affine:
    """For every number of active scales an affine map of what they hold; zero at first."""

    def __init__(self, sizes):
        counts = [height * width for height, width in sizes]
        self.sizes, self.held = sizes, list(itertools.accumulate(counts))
        self.maps = [torch.zeros(n + 1, n, dtype=torch.float64) for n in self.held]

    def __call__(self, scales, t, y, active):
        x = torch.cat([pack(scales)[:, 0, 0], torch.ones(len(y), 1).double()], 1)
        out = torch.zeros(len(y), self.held[-1], dtype=torch.float64)
        for k, (n, affine) in enumerate(zip(self.held, self.maps, strict=True), 1):
            said = x[:, [*range(n), -1]] @ affine
            out = out + nn.functional.pad(said, (0, self.held[-1] - n)) * (active == k)[:, None]
        return unpack(out[:, None, None], self.sizes)


@pytest.mark.parametrize("factors", [(2,), (2, 2)])
def test_training_on_it_converges_to_the_exact_field(factors):
    """At fixed times the exact field is affine in the scales shown: the loss's minimum finds it."""
    scales = len(factors) + 1
    process = MultiscaleFlow(
        factors,
        probabilities=(0.4, 0.3, 0.3) if scales == 3 else (0.5, 0.5),
        location=0.3,
        scale=1e-6,
        earlier_location=1.0,
        earlier_scale=1e-6,
        weights=(1.0, 2.0, 0.5)[:scales],
    )
    exact, generator = Gaussian(process, (4, 4)), torch.Generator().manual_seed(2)
    model = Affine(exact.sizes)

    def batch(count):
        draws = process.draw((count, 1, 4, 4), generator)
        return exact.draw(count), torch.zeros(count, dtype=torch.int64), draws

    def errors():
        """Of every scale, beside every main scale, as a share of the exact velocity."""
        data, y, (noise, t, active) = batch(1500)
        shown = unpack(process.mix(data, noise, t), exact.sizes)
        for k in range(1, scales + 1):
            rows = active == k
            seen = [x[rows] for x in shown]
            truth = exact(seen[:k], t[rows, :k], y[rows])
            for found, true in zip(model(seen, t, y[rows], active[rows]), truth, strict=False):
                yield ((found - true).norm() / true.norm()).item()

    assert min(errors()) > 0.99
    data, y, draws = batch(12_000)
    for affine in model.maps:
        affine.requires_grad_()
    optimizer = torch.optim.LBFGS(
        model.maps, max_iter=40, history_size=30, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = process.loss_at(model, data, y, draws).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    # What is left is the sampling error of least squares, about (numbers / samples)^(1/2).
    assert max(errors()) < 0.15


def test_each_scale_may_have_times_of_its_own():
    process = MultiscaleFlow((2, 2), probabilities=(0.4, 0.3, 0.3), locations=(0.0, 1.0, -2.0))
    _, t, active = draws_of(process)
    for scale, location in enumerate(process.means):
        times = t[active == scale + 1, scale].logit()
        assert times.mean().item() == pytest.approx(location, abs=0.05)
        if scale:
            earlier = t[active == scale + 1, :scale].logit()
            assert earlier.mean().item() == pytest.approx(1.5, abs=0.05)


def test_a_network_of_other_scales_is_refused():
    process, x = MultiscaleFlow((2,)), torch.zeros(2, 1, 4, 4)
    y, generator = torch.zeros(2, dtype=torch.int64), torch.Generator()
    with pytest.raises(
        InputError, match=r"expected velocities of .* build the network with the fac"
    ):
        process.loss(lambda scales, t, y, active=None: scales[:1], x, y, generator)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factors": (1,)}, "factors: expected a whole number of at least 2, got '1'"),
        ({"decomposition": "har"}, "did you mean 'haar'"),
        ({"probabilities": (0.5, 0.4)}, "probabilities that sum to 1"),
        ({"probabilities": (0.5, 0.3, 0.2)}, "expected 2 probabilities, one for each scale"),
        ({"probabilities": (1.5, -0.5)}, r"probabilities: expected a number .*, got '1\.5,-0\.5'"),
        ({"probabilities": (1.0, 0.0)}, "probabilities: expected a number above 0"),
        ({"weights": (1.0, 0.0)}, "weights: expected a number above 0"),
        ({"weights": (1.0, math.inf)}, "weights: expected a finite number"),
        ({"deviations": (1.0, 0.0)}, "deviations: expected a number above 0"),
        ({"factors": 2}, "factors: expected several numbers such as 2,2, got '2'"),
        (
            {"probabilities": 0.9},
            r"probabilities: expected several numbers .*, got '0\.9'",
        ),
        ({"weights": ("2", 1.0)}, "weights: expected .*, got '2,1"),
        ({"scale": "1"}, "scale: expected a number.*, got '1'"),
        ({"scale": 0.0}, "scale: expected a number above 0"),
        ({"earlier_location": math.nan}, "earlier_location: expected a finite number"),
        ({"locations": (0.0, 1.0, 2.0)}, r"2 locations, .* got \[0\.0, 1\.0, 2\.0\]"),
        ({"locations": (0.0, math.inf)}, "locations: expected a finite number"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message, unchecked):
    with pytest.raises(InputError, match=message):
        MultiscaleFlow(**settings)


def test_one_time_for_all_scales_is_that_of_the_coarsest():
    assert MultiscaleFlow().flow_time(torch.tensor([[0.9, 0.1], [0.2, 0.0]])).tolist() == (
        pytest.approx([0.9, 0.2])
    )


class Operations(TorchDispatchMode):
    """Remembers the names of all operations."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def test_no_number_is_read_back_from_the_device():
    """A GPU would have to wait for a count of cells, and for an index that is made on the CPU."""
    with Operations() as seen:
        spread(torch.rand(2, 2), [(1, 1), (2, 2)])
    process, y = MultiscaleFlow(), torch.zeros(2, dtype=torch.int64)
    stage, noise = Stage(1, (0.9, 0.0), (1.0, 1.0)), torch.zeros(2, 3, 2, 2)
    field = process.field(lambda scales, t, y: scales, stage, noise)
    with seen:
        field(torch.rand(2, 3, 1, 5), torch.rand(2), y)
    assert "aten::cat" in seen.names
    waiting = ("repeat_interleave", "aten::index.", "_local_scalar_dense", "lift_fresh")
    assert not [name for name in seen.names if any(word in name for word in waiting)]
