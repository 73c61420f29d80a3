"""A mixture of two normals in the plane, whose velocities and averages are known exactly."""

from __future__ import annotations

import torch
from torch import Tensor

MEANS = torch.tensor([[1.2, 0.4], [-0.8, -1.0]], dtype=torch.float64)
STD = 0.3
SHARES = torch.tensor([0.7, 0.3], dtype=torch.float64)


def plane(points: Tensor) -> Tensor:
    """Points (B, 2) as images (B, 2, 1, 1)."""
    return points[:, :, None, None]


def draw(count: int, generator: torch.Generator) -> Tensor:
    """Points of the mixture."""
    which = torch.multinomial(SHARES, count, replacement=True, generator=generator)
    noise = torch.randn(count, 2, dtype=torch.float64, generator=generator)
    return MEANS[which] + STD * noise


def posterior(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the data that points x at times t stem from: shares (B, 2), means (B, 2, 2), deviation."""
    t = t[:, None]
    spread = (t * STD).square() + (1 - t).square()
    away = x[:, None] - t[:, :, None] * MEANS
    logits = SHARES.log() - away.square().sum(2) / (2 * spread)
    means = MEANS + (t * STD**2 / spread)[:, :, None] * away
    return logits.softmax(1), means, STD * (1 - t) / spread.sqrt()


def draw_data(x: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
    """Data that points x at times t may stem from, a point for each."""
    shares, means, deviation = posterior(x, t)
    which = torch.multinomial(shares, 1, generator=generator)[:, :, None].expand(-1, 1, 2)
    noise = torch.randn(len(x), 2, dtype=torch.float64, generator=generator)
    return means.gather(1, which)[:, 0] + deviation * noise


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """The velocity of the flow at points x and times t, below 1: (E[data | x] - x) / (1 - t)."""
    shares, means, _ = posterior(x, t)
    return ((shares[:, :, None] * means).sum(1) - x) / (1 - t[:, None])


def average(x: Tensor, start: Tensor, end: Tensor, steps: int = 64) -> Tensor:
    """The average velocity from `start` to `end`, by steps of the classical Runge-Kutta method."""
    point, length = x, ((end - start) / steps)[:, None]
    for step in range(steps):
        now = start + step * length[:, 0]
        half = now + length[:, 0] / 2
        one = velocity(point, now)
        two = velocity(point + length / 2 * one, half)
        three = velocity(point + length / 2 * two, half)
        four = velocity(point + length * three, now + length[:, 0])
        point = point + length / 6 * (one + 2 * two + 2 * three + four)
    return (point - x) / (end - start)[:, None]
