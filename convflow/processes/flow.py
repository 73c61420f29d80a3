"""Flow matching on the straight path from noise to data.

Lipman et al. 2023, eq. 20-23 and Liu et al. 2023, eq. 1; logit-normal times and the time shift:
Esser et al. 2024, eq. 19 and section 5.3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from convflow.types import Denoiser, InputError, unknown_name

TimesName = Literal["uniform", "logit-normal"]
Time = TypeVar("Time", float, Tensor)


class Draws(NamedTuple):
    """Everything random in one training batch, one row per sample."""

    noise: Float[Tensor, "B C H W"]
    t: Float[Tensor, " B"]

    def take(self, rows: slice) -> Draws:
        """Return the draws of some samples of the batch."""
        return Draws(*(part[rows] for part in self))


@dataclass(frozen=True)
class FlowMatching:
    """x_t = t data + (1 - t) noise, for t from 0 (noise) to 1 (data); the target is the velocity.

    Args:
        times: how training times are drawn, "uniform" or "logit-normal".
        location: mean of the normal behind logit-normal times; positive favours data.
        scale: standard deviation of that normal.
        shift: s > 0 replaces t by t / (t + (1 - t) s); above 1 favours noise.
    """

    times: TimesName = "uniform"
    location: float = 0.0
    scale: float = 1.0
    shift: float = 1.0

    prediction = "velocity"

    def __post_init__(self) -> None:
        if self.times not in (known := get_args(TimesName)):
            raise InputError(unknown_name("distribution of times", self.times, known))
        if not (self.shift > 0 and self.scale > 0):
            raise InputError(
                f"expected a shift and a scale above 0, got {self.shift} and {self.scale}"
            )

    def draw_times(self, n: int, generator: torch.Generator) -> Float[Tensor, " n"]:
        """Return `n` training times in [0, 1], on the generator's device."""
        device = generator.device
        if self.times == "uniform":
            t = torch.rand(n, generator=generator, device=device)
        else:
            normal = torch.randn(n, generator=generator, device=device)
            t = torch.sigmoid(self.location + self.scale * normal)
        return shift_times(t, self.shift)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Draws:
        """Return noise and times for a batch of `shape` (B, C, H, W), on the generator's device."""
        t = self.draw_times(shape[0], generator)
        return Draws(torch.randn(shape, generator=generator, device=generator.device), t)

    def mix(
        self,
        data: Float[Tensor, "B C H W"],
        noise: Float[Tensor, "B C H W"],
        t: Float[Tensor, " B"],
    ) -> Float[Tensor, "B C H W"]:
        """Return the point at time t on the path from noise to data."""
        return torch.lerp(noise.to(data.dtype), data, t.view(-1, 1, 1, 1).to(data.dtype))

    def target(
        self,
        data: Float[Tensor, "B C H W"],
        noise: Float[Tensor, "B C H W"],
        t: Float[Tensor, " B"],
    ) -> Float[Tensor, "B C H W"]:
        """Return the velocity d x_t / dt, the same at all times."""
        return data - noise

    def loss(
        self,
        model: Denoiser,
        data: Float[Tensor, "B C H W"],
        labels: Int[Tensor, " B"],
        generator: torch.Generator,
    ) -> Float[Tensor, " B"]:
        """Return the mean squared error of the velocity for each sample, with fresh draws."""
        return self.loss_at(model, data, labels, self.draw(tuple(data.shape), generator))

    def loss_at(
        self,
        model: Denoiser,
        data: Float[Tensor, "B C H W"],
        labels: Int[Tensor, " B"],
        draws: Draws,
    ) -> Float[Tensor, " B"]:
        """Return the loss of each sample for draws already made."""
        velocity = model(self.mix(data, *draws), draws.t, labels)
        full = velocity.to(torch.promote_types(velocity.dtype, torch.float32))
        error = full - self.target(data, *draws)
        return error.square().flatten(1).mean(1)


def shift_times(t: Time, shift: float) -> Time:
    """Return t / (t + (1 - t) shift); 0 and 1 stay where they are."""
    return t / (t + (1 - t) * shift)
