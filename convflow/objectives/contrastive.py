"""Contrastive flow matching: a prediction is to be far from the target of another image.

Stoica et al. 2025 (arXiv 2506.05350).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from convflow.models.backbone import Backbone
from convflow.objectives.objective import Inputs, Objective, Wants
from convflow.objectives.taps import require_flow
from convflow.processes.process import Process


class Contrastive(Objective):
    """Minus the mean squared error of each prediction against the target of the next image.

    It is measured as the process measures its own error. The next image is that in the whole
    batch, with its own noise and time; after the last comes the first. An image alone has none.

    Raises:
        InputError: another process than flow matching.
    """

    usual_weight = 0.05
    wants = Wants(first=True, batch=True)

    def __init__(self, network: Backbone, process: Process) -> None:
        super().__init__()
        self.process = require_flow(process, "contrastive")

    def terms(
        self, network: Callable[..., Any], batch: Inputs, draws: Any
    ) -> dict[str, Float[Tensor, " B"]]:
        """Return `negative_error` of each image, at most 0."""
        assert batch.first is not None
        noise, t = batch.first.draws
        targets = batch.whole(self.process.target(batch.data, noise, t))
        other = targets.roll(-1, 0)[batch.places]
        scale = self.process.row(batch.data, t).scale
        error = (scale * batch.first.output.float() - other).square().flatten(1).mean(1)
        return {"negative_error": -error if len(targets) > 1 else 0 * error}
