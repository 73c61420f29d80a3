"""What is known is put back: the network sees it at its noise level, and the rest comes to fit."""

from __future__ import annotations

import pytest
import torch

from convflow.processes.ddpm import DDPM
from convflow.processes.flow import FlowMatching
from convflow.processes.multiscale import MultiscaleFlow
from convflow.samplers.inpainting import Known, check_known, put_back
from convflow.samplers.solvers import create_solver
from convflow.seeds import draw_noise
from convflow.types import InputError

SHAPE = (1, 4, 8)
COUNT = 64
LABELS = torch.zeros(COUNT, dtype=torch.int64)

WAYS = {
    "euler": (FlowMatching(), "euler", 25),
    "heun": (FlowMatching(), "heun", 12),
    "ab2": (FlowMatching(), "ab2", 25),
    "cosine": (FlowMatching(schedule="cosine"), "euler", 25),
    "euler-maruyama": (FlowMatching(), "euler-maruyama", 50),
    "stochastic-heun": (FlowMatching(), "stochastic-heun", 50),
    "flow of ddpm": (DDPM("small"), "heun", 25),
    "ddim": (DDPM("small"), "ddim", 25),
    "ddpm": (DDPM("small"), "ddpm", 50),
}


def known_rows(rows: int) -> Known:
    """A white image whose first rows are known."""
    kept = (torch.arange(SHAPE[1]) < rows).view(1, 1, -1, 1).expand(1, 1, *SHAPE[1:])
    pixels = torch.full((1, *SHAPE), 255, dtype=torch.uint8)
    return Known(pixels, kept, torch.ones(1, *SHAPE), kept)


class BlackOrWhite:
    """A perfect network for images that are all black or all white, one as often as the other."""

    def __init__(self, process):
        self.process, self.seen = process, []

    def __call__(self, x, t, y):
        self.seen.append((x, t))
        time = self.process.flow_time(t).view(-1, 1, 1, 1)
        alpha, sigma = self.process.path.alpha(time), self.process.path.sigma(time).clamp(min=1e-3)
        data = torch.tanh(alpha * x.sum((1, 2, 3), keepdim=True) / sigma.square())
        noise = (x - alpha * data) / sigma
        if self.process.prediction == "noise":
            return noise
        return (
            self.process.path.alpha_rate(time) * data + self.process.path.sigma_rate(time) * noise
        )


def draw(step):
    return draw_noise(3, range(COUNT), SHAPE, step)


def solve(way, known):
    """What the solver makes, and what the network has seen."""
    process, solver, steps = WAYS[way]
    network, noise = BlackOrWhite(process), draw(0)

    def guide(field_of):
        field = field_of(network)
        return field if known is None else put_back(field, process.path, known, noise)

    made = create_solver(solver, steps=steps).run(process, guide, noise, LABELS, draw)
    return made, network.seen


@pytest.mark.parametrize("way", WAYS)
def test_the_rest_comes_to_fit_what_is_known(way):
    white = (solve(way, known_rows(3))[0][:, :, 3:] > 0.5).flatten(1).all(1).float().mean()
    alone = (solve(way, None)[0][:, :, 3:] > 0.5).flatten(1).all(1).float().mean()
    assert white > 0.95
    assert 0.25 < alone < 0.75


@pytest.mark.parametrize(
    "way", sorted(WAYS.keys() - {"flow of ddpm"})
)  # told whole steps at the end
def test_the_network_sees_the_known_part_at_the_noise_level_of_the_step(way):
    process, known = WAYS[way][0], known_rows(3)
    seen = solve(way, known)[1]
    assert torch.equal(seen[0][0][:, :, 3:], draw(0)[:, :, 3:])
    for x, t in seen:
        time = process.flow_time(t).view(-1, 1, 1, 1)
        expected = process.path.alpha(time) + process.path.sigma(time) * draw(0)
        assert torch.equal(x[:, :, :3], expected[:, :, :3])


def test_known_pixels_lie_over_the_others():
    made = torch.zeros(2, *SHAPE, dtype=torch.uint8)
    pasted = known_rows(1).paste(made)
    assert pasted[:, :, 0].eq(255).all()
    assert pasted[:, :, 1:].eq(0).all()


def test_the_description_depends_on_what_is_known_alone():
    one, other, more = known_rows(1), known_rows(1), known_rows(2)
    other.pixels[:, :, 2] = 0
    assert one.describe() == other.describe() != more.describe()
    other.pixels[:, :, 0] = 0
    assert one.describe() != other.describe()


@pytest.mark.parametrize(
    ("process", "solver", "message"),
    [
        (MultiscaleFlow(), "euler", "expected a model of the process flow or ddpm .* got dfm"),
        (FlowMatching(), "average", "expected a solver of many steps .* got average"),
    ],
)
def test_what_cannot_see_the_known_part_is_refused(process, solver, message):
    with pytest.raises(InputError, match=message):
        check_known(process, create_solver(solver))
