"""The adaptive Runge-Kutta solver "dopri5" (Dormand & Prince 1980), run by torchdiffeq.

Its step lengths follow from tolerances; SiT's released sampler uses it with 1e-6 and 1e-3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from convflow.samplers.solver import Problem, Solver
from convflow.settings.fields import Positive, doc
from convflow.settings.read import check_fields
from convflow.types import InputError

MOST_ADAPTIVE_STEPS = 10_000


@dataclass(frozen=True)
class Dopri5(Solver):
    """The solver that finds its own steps.

    Every sample of the batch meets the tolerances, and all make the same steps: an image differs
    between two batches by as much as the tolerances allow. The model is asked at no time beyond
    the end. An error is a root mean square over a sample.

    Raises:
        InputError: numbers out of range.
    """

    kind: ClassVar[str] = "dopri5"
    num_steps: ClassVar[None] = None

    atol: Annotated[Positive, doc("absolute error that dopri5 allows in a step")] = 1e-6
    rtol: Annotated[Positive, doc("error that dopri5 allows in a step, relative to the state")] = (
        1e-3
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def solve(self, problem: Problem) -> Tensor:
        """Return the state at the end of a stage.

        Raises:
            InputError: torchdiffeq is missing, or tolerances so small, or slopes so steep, that
                the steps vanish.
        """
        field, x, labels = problem.field, problem.x, problem.labels
        odeint = _odeint()
        if not len(x):
            return x

        def slope(t: Tensor, state: Tensor) -> Tensor:
            now = t.to(state.dtype).expand(len(x))
            return field(state.to(x.dtype), now, labels).to(state.dtype)

        begin = x.to(torch.promote_types(x.dtype, torch.float32))  # half precision rounds times
        times = begin.new_tensor([0.0, 1.0])
        more = {"step_t": times[1:], "norm": _worst, "max_num_steps": MOST_ADAPTIVE_STEPS}
        try:
            states = odeint(
                slope, begin, times, rtol=self.rtol, atol=self.atol, method="dopri5", options=more
            )
        except AssertionError as error:
            raise InputError(
                f"expected tolerances that can be met, got atol {self.atol} and rtol {self.rtol}: "
                f"the steps of dopri5 would be too short or too many ({error}); raise them"
            ) from error
        end = states[-1].to(x.dtype)
        problem.callback(1, 1, end)
        return end


def _worst(error: Tensor) -> Tensor:
    return error.square().flatten(1).mean(1).sqrt().max() if error.dim() else error.abs()


def _odeint() -> Any:
    try:
        from torchdiffeq import odeint
    except ImportError as error:
        raise InputError(
            "expected torchdiffeq for the solver dopri5, found none; pip install convflow[ode]"
        ) from error
    return odeint
