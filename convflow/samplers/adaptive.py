"""The adaptive Runge-Kutta solver "dopri5" (Dormand & Prince 1980), run by torchdiffeq.

Its step lengths follow from tolerances; SiT's released sampler uses it with 1e-6 and 1e-3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from convflow.processes.contract import Field, MoreNoise, Process, Stage
from convflow.samplers.ode import Callback
from convflow.samplers.solver import Solver
from convflow.settings.fields import Positive, doc
from convflow.types import Denoiser, InputError

MOST_ADAPTIVE_STEPS = 10_000


class Adaptive(NamedTuple):
    """The state at the end of the path, and how often the model was called on the way."""

    state: Float[Tensor, "B C H W"]
    evaluations: int


@dataclass(frozen=True)
class Dopri5(Solver):
    """The solver that finds its own steps; see `integrate_adaptive`."""

    kind: ClassVar[str] = "dopri5"
    num_steps: ClassVar[None] = None

    atol: Annotated[Positive, doc("absolute error that dopri5 allows in a step")] = 1e-6
    rtol: Annotated[Positive, doc("error that dopri5 allows in a step, relative to the state")] = (
        1e-3
    )

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
        x = integrate_adaptive(field, x, labels, atol=self.atol, rtol=self.rtol).state
        callback(1, 1, x)
        return x


@torch.no_grad()
def integrate_adaptive(
    model: Denoiser,
    noise: Float[Tensor, "B C H W"],
    labels: Int[Tensor, " B"],
    start: float = 0.0,
    end: float = 1.0,
    *,
    atol: float = 1e-6,
    rtol: float = 1e-3,
) -> Adaptive:
    """Return the state at `end`, starting from `noise` at `start`, and the number of calls.

    Every sample of the batch meets the tolerances, and all make the same steps: a picture differs
    between two batches by as much as the tolerances allow. The model is asked at no time beyond
    `end`.

    Args:
        model: predicts the velocity.
        noise: the state at `start`.
        labels: class labels, `num_classes` for none.
        start: flow time of the beginning, 0 = noise.
        end: flow time of the end, 1 = data.

    Other arguments:
        atol: absolute error allowed in a step, as root mean square over a sample.
        rtol: likewise, relative to the state.

    Raises:
        InputError: torchdiffeq is missing, or numbers out of range, or tolerances so small, or
            slopes so steep, that the steps vanish.
    """
    if not (0 < atol < math.inf and 0 < rtol < math.inf and start < end):
        raise InputError(
            "expected atol > 0, rtol > 0 and start < end, "
            f"got {atol}, {rtol} and {start} to {end}; change them"
        )
    try:
        from torchdiffeq import odeint
    except ImportError as error:
        raise InputError(
            "expected torchdiffeq for the solver dopri5, found none; pip install convflow[ode]"
        ) from error
    if not len(noise):
        return Adaptive(noise, 0)
    evaluations = 0

    def slope(t: Tensor, x: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return model(x.to(noise.dtype), t.to(x.dtype).expand(len(x)), labels).to(x.dtype)

    def worst(error: Tensor) -> Tensor:
        return error.square().flatten(1).mean(1).sqrt().max() if error.dim() else error.abs()

    begin = noise.to(torch.promote_types(noise.dtype, torch.float32))  # half precision rounds times
    times = begin.new_tensor([start, end])
    options = {"step_t": times[1:], "norm": worst, "max_num_steps": MOST_ADAPTIVE_STEPS}
    try:
        state = odeint(slope, begin, times, rtol=rtol, atol=atol, method="dopri5", options=options)
    except AssertionError as error:
        raise InputError(
            f"expected tolerances that can be met, got atol {atol} and rtol {rtol}: the steps of "
            f"dopri5 would be too short or too many ({error}); raise them"
        ) from error
    return Adaptive(state[-1].to(noise.dtype), evaluations)
