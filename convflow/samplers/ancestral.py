"""Sampling along the chain of DDPM, step by step back from noise, all steps or some of them.

Ancestral sampling: Ho et al. 2020, algorithm 2; respaced: Nichol & Dhariwal 2021, section 4.
DDIM: Song et al. 2021, eq. 12 and 16.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

from torch import Tensor

from convflow.processes.contract import Field, Process, Stage
from convflow.processes.ddpm import DDPM, Posterior
from convflow.samplers.ode import times_like
from convflow.samplers.solver import Problem, Solver
from convflow.settings.fields import Count, Fraction, doc
from convflow.settings.read import check_fields
from convflow.types import InputError


@dataclass(frozen=True)
class Chain(Solver):
    """A solver that walks the chain of DDPM, one call of the network a step."""

    guidance_kinds: ClassVar[tuple[str, ...]] = ("cfg", "auto")

    steps: Annotated[Count, doc("number of the chain's steps to take, evenly spaced")] = 50
    clip: Annotated[bool, doc("clip the predicted data to [-1, 1]; for pixels")] = False

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def num_steps(self) -> int:
        return self.steps

    def check(self, process: Process, guidance_kind: str = "cfg") -> None:
        super().check(process, guidance_kind)
        self._chain(process).respaced(self.steps)

    def field(self, process: Process, network: Any, stage: Stage, noise: Tensor) -> Field:
        """Return the network itself, in its own time."""
        return self._chain(process).chain(network)

    def solve(self, problem: Problem) -> Tensor:
        chain, x = self._chain(problem.process).respaced(self.steps), problem.x
        for step, k in enumerate(reversed(range(self.steps)), 1):
            time, t = (times_like(x, number) for number in (chain.times[k].item(), k))
            output = problem.field(x, time, problem.labels).to(x.dtype)
            back = chain.posterior(output, x, t, self.clip)
            x = self.move(chain, back, x, k, partial(problem.draw, step))
            problem.callback(step, self.steps, x)
        return x

    def move(
        self, chain: DDPM, back: Posterior, x: Tensor, k: int, draw: Callable[[], Tensor]
    ) -> Tensor:
        """Return the state before step k of a chain.

        Args:
            chain: of the steps that are taken.
            back: the step back that the network describes.
            x: the state at step k.
            k: number of the step, 0 = the last one, to data.
            draw: gives the noise of the step.
        """
        raise NotImplementedError

    def _chain(self, process: Process) -> DDPM:
        if not isinstance(process, DDPM):
            raise InputError(
                f"the solver {self.kind} needs a model trained with the process ddpm, got one of "
                "flow matching; choose another such as heun or euler-maruyama"
            )
        return process


@dataclass(frozen=True)
class Ancestral(Chain):
    """Each step draws from the normal distribution that the network describes.

    x <- mean + sqrt(variance) z,        without z in the last step.
    """

    kind: ClassVar[str] = "ddpm"

    def move(
        self, chain: DDPM, back: Posterior, x: Tensor, k: int, draw: Callable[[], Tensor]
    ) -> Tensor:
        return back.mean + back.variance.sqrt() * draw().to(x) if k else back.mean


@dataclass(frozen=True)
class DDIM(Chain):
    """Each step goes to the predicted data and back to a little noise.

        x <- sqrt(abar') data + sqrt(1 - abar' - s^2) noise + s z,    abar' of the step before,
        s = eta sqrt((1 - abar') / (1 - abar)) sqrt(1 - abar / abar').

    With eta 0 no noise is drawn: a fixed map from noise to data; with 1 as much as in ancestral
    sampling with the "small" variance. A variance that the network predicts is not used.

    """

    kind: ClassVar[str] = "ddim"

    eta: Annotated[Fraction, doc("noise of each step of ddim: 0 = none, 1 = as ddpm")] = 0.0

    def move(
        self, chain: DDPM, back: Posterior, x: Tensor, k: int, draw: Callable[[], Tensor]
    ) -> Tensor:
        now, before = chain.signal[k].item(), chain.signal_before[k].item()
        spread = self.eta * math.sqrt((1 - before) / (1 - now) * (1 - now / before))
        noise = chain.predict_noise(back.data, x, times_like(x, k))
        moved = math.sqrt(before) * back.data + math.sqrt(1 - before - spread**2) * noise
        return moved + spread * draw().to(x) if spread else moved
