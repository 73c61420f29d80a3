"""Average velocities: draws, the identity they are trained by, guidance, and a known mixture."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from convflow.processes.flow import TrainingDraws
from convflow.processes.meanflow import LEAST_ERROR, MeanFlow, SpanDraws
from convflow.processes.process import create_process
from convflow.types import InputError
from tests.processes import mixture
from tests.processes.mixture import plane
from tests.tolerance import assert_close_rms

NONE = 5


def null(labels):
    return torch.full_like(labels, NONE)


def told(count, seed=1):
    """Points, two times, labels, noise, data."""
    generator = torch.Generator().manual_seed(seed)
    data = mixture.draw(count, generator)
    noise = torch.randn(count, 2, dtype=torch.float64, generator=generator)
    t = torch.rand(count, 2, dtype=torch.float64, generator=generator).sort(1)[0] * 0.9
    labels = torch.arange(count) % (NONE + 1)
    return data, noise, t, labels


class Toy(nn.Module):
    """A small network of the plane that is told two times or more, and a label."""

    def __init__(self, hidden=16, labels=True, numbers=2, heads=1):
        super().__init__()
        self.label = nn.Embedding(NONE + 1, hidden) if labels else None
        self.into = nn.Linear(2 + numbers * 3, hidden)
        self.body = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.out = nn.Linear(hidden, 2 * heads)

    def forward(self, x, t, y):
        times = torch.cat([t, (math.pi * t).sin(), (math.pi * t).cos()], 1)
        found = self.into(torch.cat([x.flatten(1), times], 1))
        found = found if self.label is None else found + self.label(y)
        return plane(self.out(self.body(found)))


def test_times_are_sorted_and_a_share_is_apart():
    process = MeanFlow(apart=0.25)
    draws = process.draw((20_000, 1, 2, 2), torch.Generator().manual_seed(0))
    start, end = draws.t.unbind(1)
    assert (end >= start).all()
    assert float((end > start).double().mean()) == pytest.approx(0.25, abs=0.01)
    assert draws.noise.shape == (20_000, 1, 2, 2)
    logits = torch.logit(start)  # of the lower of two
    assert float(logits.mean()) == pytest.approx(0.4 - 1 / math.sqrt(math.pi), abs=0.03)
    again = process.draw((20_000, 1, 2, 2), torch.Generator().manual_seed(0))
    assert again.t.equal(draws.t)
    own = MeanFlow(apart=1.0, location=0.6, scale=1.6, end_location=4.0, end_scale=1.6)
    start, end = own.draw((20_000, 1), torch.Generator().manual_seed(0)).t.unbind(1)
    assert float(torch.logit(start.double()).mean()) == pytest.approx(0.6, abs=0.05)
    assert float(torch.logit(end.double()).median()) == pytest.approx(4.0, abs=0.25)
    assert (process.flow_time(draws.t) == draws.t[:, 0]).all()


@pytest.mark.parametrize("tangent", ["sample", "own"])
def test_exact_averages_are_what_they_are_trained_to_be(tangent):
    """Of one velocity in a point: u = v + (e - s) du/ds holds to the last digits."""
    data, noise, t, labels = told(64)
    process = MeanFlow(tangent=tangent)
    x = process.mix(plane(data), plane(noise), t[:, 0])

    def exact(x, t, y):
        x = x[..., 0, 0]
        span = (t[:, 1] - t[:, 0])[:, None]
        average = mixture.average(x, t[:, 0], t[:, 1])
        return plane(torch.where(span > 0, average, mixture.velocity(x, t[:, 0])))

    velocity = plane(mixture.velocity(x[..., 0, 0], t[:, 0]))
    goal = process.goal(exact, x, t, labels, velocity)
    assert (goal - exact(x, t, labels)).norm() < 1e-6 * goal.norm()  # of Runge-Kutta


def test_targets_of_samples_have_the_exact_averages_as_their_mean():
    """Velocities of samples through one point vary; within the sampling error their mean is it."""
    count, generator = 4096, torch.Generator().manual_seed(3)
    process, labels = MeanFlow(), torch.zeros(count, dtype=torch.int64)
    for point, start, end in (((0.3, -0.2), 0.1, 0.9), ((0.5, 0.1), 0.4, 0.7)):
        x = torch.tensor([point], dtype=torch.float64).expand(count, 2)
        t = torch.tensor([[start, end]], dtype=torch.float64).expand(count, 2)
        data = mixture.draw_data(x, t[:, 0], generator)
        velocity = (data - x) / (1 - start)

        def exact(x, t, y):
            return plane(mixture.average(x[..., 0, 0], t[:, 0], t[:, 1], steps=16))

        goal = process.goal(exact, plane(x), t, labels, plane(velocity))[..., 0, 0]
        error = goal.mean(0) - mixture.average(x[:1], t[:1, 0], t[:1, 1])[0]
        assert (error.abs() < 4 * goal.std(0) / math.sqrt(count)).all()
        assert (goal.std(0) > 0.1).all()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"power": 0.0},
        {"tangent": "own", "power": 0.5},
        {"guidance": 2.0},
        {"guidance": 2.0, "mixture": 0.5},
        {"guidance": 3.0, "mixture": 0.25, "tangent": "own"},
    ],
    ids=str,
)
def test_loss_and_gradient_equal_those_written_out(settings):
    process, network = MeanFlow(**settings), Toy().double()
    data, noise, t, labels = told(12)
    t[::3, 1] = t[::3, 0]
    draws = SpanDraws(plane(noise), t)
    losses = process.loss_at(network, plane(data), labels, draws, null)
    found = torch.autograd.grad(losses.sum(), list(network.parameters()))

    w, k = process.guidance, process.mixture
    total = torch.zeros(())
    for i in range(len(t)):
        s, e = t[i]
        x = plane((s * data[i] + (1 - s) * noise[i])[None])
        y = labels[i : i + 1]
        now = torch.stack([s, s])[None]
        v = plane((data[i] - noise[i])[None])
        of_label, of_none = (network(x, now, one).detach() for one in (y, null(y)))
        if labels[i] != NONE:
            v = (1 - k) * w * v + k * of_label + (1 - k) * (1 - w) * of_none
        along = of_label if process.tangent == "own" else v
        _, slope = torch.func.jvp(
            lambda x, s, e=e, y=y: network(x, torch.stack([s, e])[None], y),
            (x, s),
            (along, torch.ones_like(s)),
        )
        error = (network(x, t[i : i + 1], y) - (v + (e - s) * slope).detach()).square()
        assert losses[i].item() == pytest.approx(error.mean().item(), rel=1e-9)
        total = total + error.sum() / (error.sum().detach() + LEAST_ERROR) ** process.power
    truths = torch.autograd.grad(total, list(network.parameters()))
    for one, other in zip(found, truths, strict=True):
        assert_close_rms(one, other)


@pytest.mark.parametrize(
    "settings",
    [
        {"velocity_head": True},
        {"velocity_head": True, "tangent": "own", "power": 0.0},
        {"guidance_max": 8.0},
        {"guidance_max": 4.0, "velocity_head": True, "tangent": "own", "power": 0.5},
        {"velocity_head": True, "guidance": 2.0, "mixture": 0.5},
    ],
    ids=str,
)
def test_the_improved_loss_and_its_gradient_equal_those_written_out(settings):
    process = MeanFlow(**settings)
    tells, heads = process.guidance_max > 1, 2 if process.velocity_head else 1
    network = Toy(numbers=2 + tells, heads=heads).double()
    data, noise, t, labels = told(12)
    t[::3, 1] = t[::3, 0]
    scales = torch.linspace(1, 4, 12, dtype=torch.float64)
    draws = SpanDraws(plane(noise), t, scales if tells else None)
    losses = process.loss_at(network, plane(data), labels, draws, null)
    found = torch.autograd.grad(losses.sum(), list(network.parameters()))

    total = torch.zeros(())
    for i in range(len(t)):
        s, e, w = *t[i], scales[i]
        x = plane((s * data[i] + (1 - s) * noise[i])[None])
        y = labels[i : i + 1]

        def ask(x, s, e, y, w=w):
            return network(x, torch.stack([s, e, w] if tells else [s, e])[None], y)

        v = plane((data[i] - noise[i])[None])
        # The last two numbers are the velocity's, of a network with two heads its own.
        of_label, of_none = (ask(x, s, s, one)[:, -2:].detach() for one in (y, null(y)))
        if labels[i] != NONE and tells:
            v = v + (1 - 1 / w) * (of_label - of_none)
        elif labels[i] != NONE and process.guided:
            w, k = process.guidance, process.mixture
            v = (1 - k) * w * v + k * of_label + (1 - k) * (1 - w) * of_none
        along = of_label if process.tangent == "own" else v
        _, slope = torch.func.jvp(
            lambda x, s, e=e, y=y, ask=ask: ask(x, s, e, y)[:, :2],
            (x, s),
            (along, torch.ones_like(s)),
        )
        out = ask(x, s, e, y)
        errors = [(out[:, :2] - (v + (e - s) * slope).detach()).square()]
        errors += [(out[:, 2:] - v).square()] if heads > 1 else []
        truth = sum(error.mean().item() for error in errors)
        assert losses[i].item() == pytest.approx(truth, rel=1e-9)
        for error in errors:
            total = total + error.sum() / (error.sum().detach() + LEAST_ERROR) ** process.power
    truths = torch.autograd.grad(total, list(network.parameters()))
    for one, other in zip(found, truths, strict=True):
        assert_close_rms(one, other)


def test_guided_velocities_of_a_mixture_are_where_a_told_network_rests():
    """Its components are classes: of exact velocities the loss makes the exact guided ones."""
    data, noise, t, _ = told(64)
    scales, labels = torch.linspace(1, 8, 64, dtype=torch.float64), torch.arange(64) % 2
    labels[::5] = NONE
    process = MeanFlow(guidance_max=8.0)
    x = process.mix(plane(data), plane(noise), t[:, 0])

    def of_class(point, time, y):
        _, means, _ = mixture.posterior(point, time)
        place = y.clamp(max=1)[:, None, None].expand(-1, 1, 2)
        return (means.gather(1, place)[:, 0] - point) / (1 - time[:, None])

    def exact(x, t, y):
        point, time = x[..., 0, 0], t[:, 0]
        whole = mixture.velocity(point, time)
        guided = whole + t[:, 2:] * (of_class(point, time, y) - whole)
        return plane(torch.where((y == NONE)[:, None], whole, guided))

    point, time, none = x[..., 0, 0], t[:, 0], (labels == NONE)[:, None]
    mean = torch.where(none, mixture.velocity(point, time), of_class(point, time, labels))
    numbers = torch.cat([t, scales[:, None]], 1)
    found, own = process.velocities(exact, x, numbers, labels, plane(mean), null)
    truth = exact(x, numbers, labels)
    torch.testing.assert_close(found, truth)
    torch.testing.assert_close(own, truth)
    assert (found - plane(mean)).norm() > 0.3 * found.norm()


def test_scales_are_drawn_evenly_in_their_logarithm_after_all_else():
    shape, process = (20_000, 1, 2, 2), MeanFlow(guidance_max=8.0)
    draws = process.draw(shape, torch.Generator().manual_seed(0))
    plain = MeanFlow().draw(shape, torch.Generator().manual_seed(0))
    assert draws.noise.equal(plain.noise)
    assert draws.t.equal(plain.t)
    assert plain.guidance is None
    share = draws.guidance.log() / math.log(8)
    assert 0 <= float(share.min()) < 0.01
    assert 0.99 < float(share.max()) <= 1
    assert float(share.mean()) == pytest.approx(0.5, abs=0.01)
    assert draws.told.shape == (20_000, 3)


def test_averages_are_the_first_channels_at_the_scale_that_is_told():
    process, asked = MeanFlow(guidance_max=8.0, velocity_head=True), []

    def network(x, t, y):
        asked.append(t)
        return torch.cat([x, 2 * x], 1)

    x, t = torch.randn(3, 2, 1, 1), torch.rand(3, 2)
    assert process.averages(network, 4.0)(x, t, None).equal(x)
    assert process.as_prediction(network)(x, t[:, 0], None).equal(x)
    assert asked[0].equal(torch.cat([t, torch.full((3, 1), 4.0)], 1))
    assert asked[1].equal(torch.stack([t[:, 0], t[:, 0], torch.ones(3)], 1))
    assert MeanFlow().averages(network) is network


def test_where_times_are_equal_it_is_flow_matching():
    data, noise, t, labels = told(8)
    t[:, 1] = t[:, 0]
    network, draws = Toy().double(), SpanDraws(plane(noise), t)
    flow = create_process("flow")
    plain = flow.loss_at(
        lambda x, s, y: network(x, torch.stack([s, s], 1), y),
        plane(data),
        labels,
        TrainingDraws(plane(noise), t[:, 0]),
    )
    assert_close_rms(MeanFlow().loss_at(network, plane(data), labels, draws), plain)
    velocity = MeanFlow().as_prediction(network)(plane(data), t[:, 0], labels)
    assert velocity.equal(network(plane(data), t, labels))


def test_bad_settings_are_refused():
    for settings, message in (
        ({"prediction": "noise"}, "prediction velocity"),
        ({"guidance": math.inf}, "guidance: expected a finite number"),
        ({"mixture": 1.0}, "mixture"),
        ({"apart": 1.5}, "apart"),
        ({"tangent": "other"}, "tangent"),
        ({"guidance_max": 0.5}, "guidance_max"),
        ({"guidance_max": 4, "guidance": 2}, "expected guidance 1 and mixture 0 with guidance-max"),
    ):
        with pytest.raises(InputError, match=message):
            create_process("meanflow", **settings)
    with pytest.raises(InputError, match="second-time: expected true"):
        MeanFlow().adapt({"name": "dico", "second_time": False})
    for process, told_it in ((MeanFlow(guidance_max=8), False), (MeanFlow(), True)):
        with pytest.raises(InputError, match=r"told-guidance: .*; leave it out.*guidance-max"):
            process.adapt({"name": "dico", "told_guidance": told_it})
        assert process.adapt({"name": "dico", "told_guidance": not told_it})
    data, noise, t, labels = told(3)
    with pytest.raises(InputError, match="labels that can be dropped"):
        MeanFlow(guidance=2).loss_at(
            Toy().double(), plane(data), labels, SpanDraws(plane(noise), t)
        )
    for process, heads, cure in (
        (MeanFlow(), 2, "--process.velocity-head true"),
        (MeanFlow(velocity_head=True), 1, "--process.velocity-head false"),
    ):
        with pytest.raises(InputError, match=cure):
            process.loss_at(
                Toy(heads=heads).double(), plane(data), labels, SpanDraws(plane(noise), t)
            )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tangent", "head"), [("sample", False), ("own", False), ("own", True)], ids=str
)
def test_a_small_network_learns_the_averages_of_a_mixture(tangent, head):
    """Its error is below a tenth of the averages', and one step gives the mixture's shares."""
    torch.manual_seed(0)
    process = MeanFlow(apart=0.5, tangent=tangent, power=0.0, times="uniform", velocity_head=head)
    network = Toy(128, labels=False, heads=1 + head)
    generator = torch.Generator().manual_seed(1)
    average, steps = copy.deepcopy(network), 4000
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    labels = torch.zeros(512, dtype=torch.int64)
    for _ in range(steps):
        data = plane(mixture.draw(512, generator).float())
        draws = process.draw((512, 2, 1, 1), generator)
        process.loss_at(network, data, labels, draws).mean().backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for kept, new in zip(average.parameters(), network.parameters(), strict=True):
                kept.lerp_(new, 0.01)
    noise = torch.randn(4096, 2, dtype=torch.float64, generator=generator)
    start = torch.rand(4096, dtype=torch.float64, generator=generator) * 0.5
    end = start + 0.4
    x = start[:, None] * mixture.draw(4096, generator) + (1 - start[:, None]) * noise
    with torch.no_grad():
        found = average(plane(x.float()), torch.stack([start, end], 1).float(), labels)
        ones = average(plane(noise.float()), torch.tensor([[0.0, 1.0]]).expand(4096, 2), labels)
    if head:
        own, truth = found[:, 2:, 0, 0], mixture.velocity(x, start)
        assert (own - truth).norm() < 0.1 * truth.norm()
    found, ones = found[:, :2], ones[:, :2]
    exact = mixture.average(x, start, end)
    error = (found[..., 0, 0] - exact).norm() / exact.norm()
    plain = (mixture.velocity(x, start) - exact).norm() / exact.norm()
    assert error < 0.1 < 0.3 < plain
    sample = noise + ones[..., 0, 0].double()
    first = (torch.cdist(sample, mixture.MEANS).argmin(1) == 0).double()
    assert float(first.mean()) == pytest.approx(0.7, abs=4 * math.sqrt(0.7 * 0.3 / 4096) + 0.02)
