"""The loss that a process has itself: flow matching, DDPM, or flow matching on every scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from convflow.objectives.objective import Inputs, Objective
from convflow.processes.flow import shift_of_size, shift_times
from convflow.processes.process import Process
from convflow.types import Size


class Regression(Objective):
    """The error of the network's prediction against the target of the process.

    Args:
        process: draws times and noise, and measures the error; see its `loss_at`.
        trained: height and width in cells at which times stay as they are drawn. At larger sizes
            they lean to noise (`shift_of_size`). None never shifts them.
    """

    def __init__(self, process: Process, trained: Size | None = None) -> None:
        super().__init__()
        self.process, self.trained = process, trained

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Any:
        draws = self.process.draw(shape, generator)
        if self.trained is None:
            return draws
        shift = shift_of_size(tuple(shape[2:]), self.trained)
        return draws._replace(t=shift_times(draws.t, shift))

    def terms(
        self, network: Callable[..., Any], batch: Inputs, draws: Any
    ) -> dict[str, Float[Tensor, " B"]]:
        return {"loss": self.process.loss_at(network, batch.data, batch.labels, draws)}
