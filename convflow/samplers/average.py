"""Steps by average velocities: each goes as far as it likes along the flow.

MeanFlow: Geng et al. 2025 (arXiv 2505.13447), eq. 12 and algorithm 2.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from msgspec import Meta
from torch import Tensor

from convflow.processes.contract import Field, Process, Stage
from convflow.processes.meanflow import MeanFlow
from convflow.samplers.ode import time_grid, times_like
from convflow.samplers.solver import Problem, Solver
from convflow.settings.fields import Count, Positive, doc
from convflow.settings.read import check_fields
from convflow.types import InputError


@dataclass(frozen=True)
class Average(Solver):
    """x_e = x_s + (e - s) u(x_s, s, e), one call of the network a step.

    For models of the process "meanflow", whose averages hold over steps of any length. Guidance is
    a part of their training: averages of a guided flow are no sum of other averages.

    Raises:
        InputError: a number out of range.
    """

    kind: ClassVar[str] = "average"
    guides: ClassVar[bool] = False

    steps: Annotated[Count, doc("number of steps by average velocities")] = 1
    shift: Annotated[Positive, doc("time shift of the steps; above 1 spends more near noise")] = 1.0

    told_guidance: Annotated[
        float,
        Meta(ge=1),
        doc("scale of guidance that a network is told which was trained with guidance-max"),
    ] = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        time_grid(self.steps, shift=self.shift)

    @property
    def num_steps(self) -> int:
        return self.steps

    def check(self, process: Process, guidance_kind: str = "cfg") -> None:
        if not process.second_time:
            raise InputError(
                f"expected a model trained with the process meanflow for the solver {self.kind}, "
                f"got {process.kind}; choose another solver such as heun"
            )
        if self.told_guidance != 1 and not process.tells_guidance:
            raise InputError(
                f"expected told-guidance 1 for a network that is told none, got "
                f"{self.told_guidance}; leave it out, or train with --process.guidance-max"
            )
        if isinstance(process, MeanFlow) and self.told_guidance > process.guidance_max:
            raise InputError(
                f"expected a told-guidance of at most {process.guidance_max:g}, the largest "
                f"that the network was trained with, got {self.told_guidance:g}; give a smaller one"
            )
        super().check(process, guidance_kind)

    def field(self, process: Process, network: Any, stage: Stage, noise: Tensor) -> Field:
        """Return the averages that the network predicts, which take two times."""
        return Field(process.averages(network, self.told_guidance))

    @classmethod
    def unfit(cls, process: Process, given: Mapping[str, Any]) -> set[str]:
        return set() if process.tells_guidance else {"told_guidance"}

    def solve(self, problem: Problem) -> Tensor:
        x, grid = problem.x, time_grid(problem.stage.steps, shift=self.shift)
        for step, times in enumerate(itertools.pairwise(grid), 1):
            t = torch.stack([times_like(x, time) for time in times], 1)
            average = problem.field.predict(x, t, problem.labels).to(x.dtype)
            x = torch.add(x, average, alpha=times[1] - times[0])
            problem.callback(step, self.steps, x)
        return x
