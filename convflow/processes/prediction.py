"""Predictions: what a network can be asked for, each a row over (data, noise); one conversion.

Velocity and score of an interpolant: Ma et al. 2024 (SiT), eq. 3-6; data and noise: Ho et al. 2020,
section 3.2, Salimans & Ho 2022, section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from convflow.processes.schedule import Schedule
from convflow.types import Denoiser, check_name

Kind = Literal["data", "noise", "velocity", "score"]
"""What a prediction is: of the data, the noise, d x_t / dt, or grad log p(x_t) = -noise / sigma."""

LEAST = 0.005
"""Divisors of less than this count as next to nothing; alpha of VP and DDPM is never below it."""


class Row(NamedTuple):
    """scale * prediction = data * (the data) + noise * (the noise); all three finite on [0, 1]."""

    data: Tensor
    noise: Tensor
    scale: Tensor


ROWS: dict[Kind, Callable[[Schedule, Tensor], Row]] = {
    "data": lambda s, t: Row(torch.ones_like(t), torch.zeros_like(t), torch.ones_like(t)),
    "noise": lambda s, t: Row(torch.zeros_like(t), torch.ones_like(t), torch.ones_like(t)),
    "velocity": lambda s, t: Row(s.alpha_rate(t), s.sigma_rate(t), torch.ones_like(t)),
    "score": lambda s, t: Row(torch.zeros_like(t), -torch.ones_like(t), s.sigma(t)),
}


def convert(
    prediction: Float[Tensor, "B C *F H W"],
    x: Float[Tensor, "B C *F H W"],
    t: Float[Tensor, " B"],
    schedule: Schedule,
    source: Kind,
    wanted: Kind,
) -> Float[Tensor, "B C *F H W"]:
    """Return what a prediction says of another kind.

    The prediction and x = alpha data + sigma noise are two equations for data and noise. The
    prediction is taken at its word, and x adds what it leaves open:

        (data, noise) = along (a, b) + across (-b, a)        where (a, b) is the prediction's row.

    At an end of time the two may say the same: at t = 0 of the linear and cosine schedules noise
    tells nothing of data, at t = 1 data nothing of noise, and the score has no bound. Every
    division there is by `LEAST`^2 / v instead of v < `LEAST`, so that the unknown part falls to 0,
    the mean of data and of noise, and everything stays finite. From a velocity nothing is unknown.

    Args:
        prediction: of the kind `source`.
        x: the noisy images it was made from.
        t: flow times in [0, 1].
        schedule: of the process that the network was trained for.
        source: what `prediction` is.
        wanted: what to return.

    Raises:
        InputError: an unknown kind.
    """
    for kind in (source, wanted):
        check_kind(kind)
    if source == wanted:
        return prediction
    t = t.view(-1, *(1,) * (x.dim() - 1))
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    a, b, scale = ROWS[source](schedule, t)
    along = scale * prediction / (a.square() + b.square())
    across = (x - along * (alpha * a + sigma * b)) * _reciprocal(sigma * a - alpha * b)
    data, noise = along * a - across * b, along * b + across * a
    a, b, scale = ROWS[wanted](schedule, t)
    return (a * data + b * noise) * _reciprocal(scale)


class Predicts:
    """A Denoiser in flow time that turns what `model` predicts into another kind of prediction.

    Args:
        model: predicts `source`, in flow time. What it says of a variance, in channels beyond those
            of its input, is dropped.
        schedule: of the process it was trained for.
        source: what it predicts.
        wanted: what to predict instead.

    Raises:
        InputError: an unknown kind.
    """

    def __init__(self, model: Denoiser, schedule: Schedule, source: Kind, wanted: Kind) -> None:
        for kind in (source, wanted):
            check_kind(kind)
        self.model, self.schedule, self.source, self.wanted = model, schedule, source, wanted

    def __call__(
        self, x: Float[Tensor, "B C *F H W"], t: Float[Tensor, " B"], y: Int[Tensor, " B"]
    ) -> Float[Tensor, "B C *F H W"]:
        """Return the converted prediction."""
        prediction = self.model(x, t, y)[:, : x.shape[1]]
        return convert(prediction, x, t, self.schedule, self.source, self.wanted)


def check_kind(kind: str) -> None:
    """Raise InputError unless `kind` is a kind of prediction."""
    check_name("prediction", kind, get_args(Kind))


def _reciprocal(divisor: Tensor) -> Tensor:
    """Return 1 / divisor, falling to 0 within `LEAST` of zero."""
    return divisor / divisor.abs().clamp(min=LEAST).square()
