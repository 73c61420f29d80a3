"""The loss of average velocities: that of the process, told how to drop labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from convflow.models.backbone import Backbone
from convflow.objectives.objective import Inputs
from convflow.objectives.regression import Regression
from convflow.processes.meanflow import MeanFlow
from convflow.types import InputError, Size


class AverageVelocity(Regression):
    """The error of an average velocity; see `MeanFlow`, whose settings are those of this objective.

    Args:
        network: to be trained, whose labels guidance compares with none.
        process: draws two times and noise, and measures the error.
        trained: as of `Regression`.

    Raises:
        InputError: guidance without classes, or a network that is told one time.
    """

    process: MeanFlow

    def __init__(self, network: Backbone, process: MeanFlow, trained: Size | None = None) -> None:
        super().__init__(process, trained)
        if process.guided and not network.conditional:
            name, got = "guidance", f"{process.guidance} and the mixture {process.mixture}"
            if process.tells_guidance:
                name, got = "guidance-max", str(process.guidance_max)
            raise InputError(
                f"--process.{name}: expected 1 for data without classes, got {got}; leave it out"
            )
        self.null = network.conditions.null

    def terms(
        self, network: Callable[..., Any], batch: Inputs, draws: Any
    ) -> dict[str, Float[Tensor, " B"]]:
        """Return the loss of each image, the forward derivative in it taken once."""
        given = network, batch.data, batch.labels, draws
        return {"loss": self.process.loss_at(*given, null=self.null)}
