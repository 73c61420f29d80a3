"""Schedules: how much data and how much noise an image holds at flow time t.

x_t = alpha(t) data + sigma(t) noise for t from 0 (noise) to 1 (data). Linear: Lipman et al. 2023,
eq. 20; cosine, called GVP there, and VP: Ma et al. 2024 (SiT), section 3.3 after Song et al. 2021,
eq. 11; discrete betas: Ho et al. 2020, eq. 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from convflow.types import check_name

Function = Callable[[Tensor], Tensor]
"""Of flow times in any shape; elementwise."""

LEAST_NOISE = 0.01
"""sigma at the first of DDPM's steps; where a variance-preserving schedule has less, the rate of
sigma is that of this much, since the true one has no bound."""


class Schedule(NamedTuple):
    """x_t = alpha(t) data + sigma(t) noise, and the rates d alpha / dt and d sigma / dt.

    All four are finite on [0, 1]. At t = 1 alpha is 1 and sigma 0, exactly. At t = 0 alpha is 0 and
    sigma 1 in the linear and the cosine schedule; the variance-preserving ones keep alpha = 0.0066
    (VP) or 0.0064 (DDPM) there, and sampling starts from plain noise all the same.
    """

    name: str
    alpha: Function
    sigma: Function
    alpha_rate: Function
    sigma_rate: Function


def variance_preserving(name: str, log_signal: Function, log_signal_rate: Function) -> Schedule:
    """Return alpha^2 + sigma^2 = 1 from log alpha^2 <= 0 and its rate d log alpha^2 / dt.

    Where sigma < `LEAST_NOISE`, `sigma_rate` divides by that instead of sigma.
    """

    def alpha(t: Tensor) -> Tensor:
        return torch.exp(log_signal(t) / 2)

    def sigma(t: Tensor) -> Tensor:
        return torch.expm1(log_signal(t)).clamp(max=0).abs().sqrt()

    def alpha_rate(t: Tensor) -> Tensor:
        return alpha(t) * log_signal_rate(t) / 2

    def sigma_rate(t: Tensor) -> Tensor:
        return -alpha(t) * alpha_rate(t) / sigma(t).clamp(min=LEAST_NOISE)

    return Schedule(name, alpha, sigma, alpha_rate, sigma_rate)


def discrete(name: str, signal: Float[Tensor, " N"]) -> Schedule:
    """Return the schedule through N steps of a chain, step k at flow time 1 - (k + 1) / N.

    log alpha^2 is interpolated between the steps, and from the first one to clean data at t = 1,
    by the monotone cubic of Fritsch & Carlson 1980: it has a continuous rate.

    Args:
        name: of the schedule.
        signal: alpha^2 (alpha-bar) after each step, falling, in (0, 1); float64.
    """
    knots = torch.cat([signal.new_zeros(1), signal.log()])
    rises = knots.diff()
    inner = 2 * rises[1:] * rises[:-1] / (rises[1:] + rises[:-1])  # harmonic: never overshoots
    slopes = torch.cat([rises[:1], inner, rises[-1:]])

    def pieces(t: Tensor) -> tuple[Tensor, ...]:
        """The fraction of the interval that t lies in, then the cubic's four coefficients."""
        position = len(signal) * (1 - t)
        knot = position.detach().floor().clamp(0, len(signal) - 1)
        i = knot.long()
        tables = (table.to(t.dtype).to(t.device) for table in (knots, rises, slopes, slopes[1:]))
        y, rise, slope, last = (table[i] for table in tables)
        return position - knot, y, slope, 3 * rise - 2 * slope - last, slope + last - 2 * rise

    def log_signal(t: Tensor) -> Tensor:
        f, y, slope, square, cube = pieces(t)
        return y + f * (slope + f * (square + f * cube))

    def log_signal_rate(t: Tensor) -> Tensor:
        f, _, slope, square, cube = pieces(t)
        return -len(signal) * (slope + f * (2 * square + f * 3 * cube))

    return variance_preserving(name, log_signal, log_signal_rate)


LINEAR = Schedule(
    "linear",
    alpha=lambda t: t,
    sigma=lambda t: 1 - t,
    alpha_rate=lambda t: torch.ones_like(t),
    sigma_rate=lambda t: -torch.ones_like(t),
)
QUARTER = math.pi / 2
COSINE = Schedule(
    "cosine",
    alpha=lambda t: torch.sin(QUARTER * t),
    sigma=lambda t: torch.sin(QUARTER * (1 - t)),  # cos(pi / 2) is not zero in floating point
    alpha_rate=lambda t: QUARTER * torch.cos(QUARTER * t),
    sigma_rate=lambda t: -QUARTER * torch.cos(QUARTER * (1 - t)),
)
VP = variance_preserving(  # betas rise from 0.1 at data to 20 at noise; this is their integral
    "vp",
    log_signal=lambda t: -(1 - t) * (0.1 + (1 - t) * 19.9 / 2),
    log_signal_rate=lambda t: 0.1 + (1 - t) * 19.9,
)
SCHEDULES: dict[str, Schedule] = {s.name: s for s in (LINEAR, COSINE, VP)}
"""The schedules of flow matching by name."""


def find_schedule(schedule: str | Schedule) -> Schedule:
    """Return the schedule of a name, or the schedule given.

    Raises:
        InputError: an unknown name; the message has the nearest.
    """
    if isinstance(schedule, Schedule):
        return schedule
    check_name("schedule", schedule, SCHEDULES)
    return SCHEDULES[schedule]
