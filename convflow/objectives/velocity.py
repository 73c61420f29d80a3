"""The loss of flow matching measured on velocities, whatever the network predicts.

Li & He 2025 (arXiv 2511.13720): a network that predicts the data, trained on the error of the
velocity that follows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from jaxtyping import Float
from torch import Tensor

from convflow.objectives.objective import Inputs
from convflow.objectives.regression import Regression
from convflow.objectives.taps import require_flow
from convflow.processes.process import Process
from convflow.settings.fields import Share, doc
from convflow.types import Size


class VelocityError(Regression):
    """The squared error of the velocity that a prediction implies, in place of its own error.

    The velocity v = alpha' data + sigma' noise and x = alpha data + sigma noise are linear, so an
    error of the data is one of the velocity times (alpha' sigma - sigma' alpha) / sigma, and one of
    the noise times the same over alpha. On the straight path these are 1 / (1 - t) and 1 / t. The
    divisor counts as `least` where it is smaller.

    Raises:
        InputError: another process than flow matching.
    """

    def __init__(
        self,
        process: Process,
        trained: Size | None = None,
        least: Annotated[Share, doc("smallest sigma, or alpha, by which an error is divided")] = (
            0.05
        ),
    ) -> None:
        super().__init__(require_flow(process, "velocity"), trained)
        self.least = least

    def terms(
        self, network: Callable[..., Any], batch: Inputs, draws: Any
    ) -> dict[str, Float[Tensor, " B"]]:
        """Return `loss` of each image."""
        found = super().terms(network, batch, draws)
        return {"loss": found["loss"] * self.factor(draws.t).square()}

    def factor(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Return by how much an error of the prediction is larger as one of the velocity."""
        process = require_flow(self.process, "velocity")
        path, kind = process.path, process.prediction
        if kind == "velocity":
            return t.new_ones(t.shape)
        alpha, sigma = path.alpha(t), path.sigma(t)
        turn = path.alpha_rate(t) * sigma - path.sigma_rate(t) * alpha
        return turn / (sigma if kind == "data" else alpha).clamp(min=self.least)
