"""Dispersive loss: features of different images are to lie far from each other.

Wang & He 2025 (arXiv 2506.09027): a contrastive loss without positive pairs, encoder or
projector.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from convflow.models.backbone import Backbone
from convflow.objectives.objective import Inputs, Objective, Wants
from convflow.objectives.taps import block_at
from convflow.processes.process import Process
from convflow.settings.fields import Natural, Positive, doc


class Dispersive(Objective):
    """log mean_ij exp(-|h_i - h_j|^2 / (n temperature)), over all pairs of the whole batch.

    h are the n numbers of an image's features after a block. The pairs i = j are among them.
    """

    usual_weight = 0.5

    def __init__(
        self,
        network: Backbone,
        process: Process,
        block: Annotated[
            Natural | None,
            doc("block after which features are taken, from 0; none = at a quarter of the depth"),
        ] = None,
        temperature: Annotated[Positive, doc("mean square difference that counts as one")] = 0.5,
    ) -> None:
        super().__init__()
        self.block = block_at(network, 1 / 4) if block is None else block
        self.temperature = temperature
        self.wants = Wants(features=(self.block,), batch=True)

    def terms(
        self, network: Callable[..., Any], batch: Inputs, draws: Any
    ) -> dict[str, Float[Tensor, " B"]]:
        """Return `closeness`, at most 0, the same for all images of the batch."""
        features = batch.whole(batch.features[self.block].float().flatten(1))
        closeness = log_mean_closeness(features, self.temperature)
        return {"closeness": closeness.expand(len(batch.data))}


def log_mean_closeness(features: Float[Tensor, "B n"], temperature: float) -> Float[Tensor, ""]:
    """Return log mean_ij exp(-|h_i - h_j|^2 / (n temperature)), in float32 at least."""
    with torch.autocast(features.device.type, enabled=False):
        centred = features - features.mean(0)  # fewer digits cancel
        squares = centred.square().sum(1)
        distances = squares[:, None] + squares - 2 * centred @ centred.T
        count = features.shape[1] * temperature
        closeness = (-distances.clamp(min=0) / count).flatten().logsumexp(0)
    return closeness - 2 * math.log(len(features))
