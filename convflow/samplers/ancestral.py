"""Sampling along the chain of DDPM, step by step back from noise, all steps or some of them.

Ancestral sampling: Ho et al. 2020, algorithm 2; respaced: Nichol & Dhariwal 2021, section 4.
DDIM: Song et al. 2021, eq. 12 and 16.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from convflow.processes.contract import Field, MoreNoise, Process, Stage
from convflow.processes.ddpm import DDPM, Posterior
from convflow.samplers.ode import Callback, times_like
from convflow.samplers.solver import Solver
from convflow.settings.fields import Count, Fraction, doc
from convflow.types import Denoiser, InputError

Move = Callable[[DDPM, Posterior, Tensor, int, int], Tensor]
"""From a chain, the step back that the network describes, the state, the chain's step and the
number of the step taken, to the next state."""


@dataclass(frozen=True)
class Chain(Solver):
    """A solver that walks the chain of DDPM, one call of the network a step."""

    guidance_kinds: ClassVar[tuple[str, ...]] = ("cfg", "auto")

    steps: Annotated[Count, doc("number of the chain's steps to take, evenly spaced")] = 50
    clip: Annotated[bool, doc("clip the predicted data to [-1, 1]; for pixels")] = False

    @property
    def num_steps(self) -> int:
        """How many steps a run has."""
        return self.steps

    def check(self, process: Process, guidance_kind: str = "cfg") -> None:
        """Raise InputError where the solver cannot sample a model."""
        super().check(process, guidance_kind)
        self._chain(process).respaced(self.steps)

    def field(self, process: Process, network: Any, stage: Stage, noise: Tensor) -> Field:
        """Return the network itself, in its own time."""
        return self._chain(process).chain(network)

    def _chain(self, process: Process) -> DDPM:
        if not isinstance(process, DDPM):
            raise InputError(
                f"the solver {self.kind} needs a model trained with the process ddpm, got one of "
                "flow matching; choose another such as heun or euler-maruyama"
            )
        return process


@dataclass(frozen=True)
class Ancestral(Chain):
    """Ancestral sampling, see `ancestral`."""

    kind: ClassVar[str] = "ddpm"

    def solve(
        self,
        field: Field,
        process: Process,
        x: Tensor,
        labels: Tensor,
        stage: Stage,
        draw: MoreNoise,
        callback: Callback,
    ) -> Tensor:
        """Return the state at the end of a stage."""
        return ancestral(
            field,
            self._chain(process),
            x,
            labels,
            self.steps,
            draw,
            clip=self.clip,
            callback=callback,
        )


@dataclass(frozen=True)
class DDIM(Chain):
    """Implicit sampling, see `ddim`."""

    kind: ClassVar[str] = "ddim"

    eta: Annotated[Fraction, doc("noise of each step of ddim: 0 = none, 1 = as ddpm")] = 0.0

    def solve(
        self,
        field: Field,
        process: Process,
        x: Tensor,
        labels: Tensor,
        stage: Stage,
        draw: MoreNoise,
        callback: Callback,
    ) -> Tensor:
        """Return the state at the end of a stage."""
        return ddim(
            field,
            self._chain(process),
            x,
            labels,
            self.steps,
            draw,
            eta=self.eta,
            clip=self.clip,
            callback=callback,
        )


@torch.no_grad()
def ancestral(
    model: Denoiser,
    ddpm: DDPM,
    noise: Float[Tensor, "B C H W"],
    labels: Int[Tensor, " B"],
    steps: int,
    draw: MoreNoise,
    *,
    clip: bool = False,
    callback: Callback | None = None,
) -> Float[Tensor, "B C H W"]:
    """Return data: each step draws from the normal distribution that the network describes.

        x <- mean + sqrt(variance) z,        without z in the last step.

    Args:
        model: predicts noise, and variance where it is learned, in the time of `ddpm`.
        ddpm: the chain the network was trained on.
        noise: the state at its last step.
        labels: class labels, `num_classes` for none.
        steps: how many of the chain's steps to take, evenly spaced; 250 is usual.
        draw: from the number of a step, from 1, to its standard normal noise.

    Other arguments:
        clip: keep the predicted data in [-1, 1]; for pixels, never for latents.
        callback: told of every step, for progress bars and previews.

    Raises:
        InputError: a number of steps that the chain has not, or a network without the channels
            of the variance.
    """

    def move(chain: DDPM, back: Posterior, x: Tensor, k: int, step: int) -> Tensor:
        return back.mean + back.variance.sqrt() * draw(step).to(x) if k else back.mean

    return _walk(model, ddpm, noise, labels, steps, clip, callback, move)


@torch.no_grad()
def ddim(
    model: Denoiser,
    ddpm: DDPM,
    noise: Float[Tensor, "B C H W"],
    labels: Int[Tensor, " B"],
    steps: int,
    draw: MoreNoise | None = None,
    *,
    eta: float = 0.0,
    clip: bool = False,
    callback: Callback | None = None,
) -> Float[Tensor, "B C H W"]:
    """Return data: each step goes to the predicted data and back to a little noise.

        x <- sqrt(abar') data + sqrt(1 - abar' - s^2) noise + s z,    abar' of the step before,
        s = eta sqrt((1 - abar') / (1 - abar)) sqrt(1 - abar / abar').

    Args:
        model: predicts noise, and perhaps variance, which is not used, in the time of `ddpm`.
        ddpm: the chain the network was trained on.
        noise: the state at its last step.
        labels: class labels, `num_classes` for none.
        steps: how many of the chain's steps to take, evenly spaced.
        draw: from the number of a step, from 1, to its standard normal noise; not needed when
            `eta` is 0.

    Other arguments:
        eta: 0 draws no noise: a fixed map from noise to data; 1 draws as much as ancestral
            sampling with the "small" variance.
        clip: keep the predicted data in [-1, 1]; for pixels, never for latents.
        callback: told of every step, for progress bars and previews.

    Raises:
        InputError: eta outside [0, 1] or above 0 without `draw`, a number of steps that the chain
            has not, or a network without the channels of the variance.
    """
    if not 0 <= eta <= 1 or (eta and draw is None):
        raise InputError(
            f"expected eta in [0, 1], and draw where it is above 0, got eta {eta}; change it"
        )

    def move(chain: DDPM, back: Posterior, x: Tensor, k: int, step: int) -> Tensor:
        now, before = chain.signal[k].item(), chain.signal_before[k].item()
        spread = eta * math.sqrt((1 - before) / (1 - now) * (1 - now / before))
        noise = chain.predict_noise(back.data, x, times_like(x, k))
        moved = math.sqrt(before) * back.data + math.sqrt(1 - before - spread**2) * noise
        return moved + spread * draw(step).to(x) if spread and draw else moved

    return _walk(model, ddpm, noise, labels, steps, clip, callback, move)


def _walk(
    model: Denoiser,
    ddpm: DDPM,
    noise: Tensor,
    labels: Tensor,
    steps: int,
    clip: bool,
    callback: Callback | None,
    move: Move,
) -> Tensor:
    chain, x = ddpm.respaced(steps), noise
    for step, k in enumerate(reversed(range(steps)), 1):
        model_time, t = (times_like(x, number) for number in (chain.times[k].item(), k))
        back = chain.posterior(model(x, model_time, labels).to(x.dtype), x, t, clip)
        x = move(chain, back, x, k, step)
        if callback is not None:
            callback(step, steps, x)
    return x
