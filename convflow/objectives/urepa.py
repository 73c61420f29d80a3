"""U-REPA: alignment of the middle of a U, and of how places of an image resemble each other.

Tian et al. 2025 (arXiv 2503.18414): features of the middle stage pass an MLP on their own coarse
grid and are upsampled behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from convflow.models.backbone import Backbone
from convflow.objectives.alignment import (
    Alignment,
    EncoderSettings,
    negative_cosine,
    resample,
)
from convflow.objectives.objective import Inputs
from convflow.objectives.repa import Hidden
from convflow.objectives.taps import create_projector, middle_block
from convflow.processes.process import Process
from convflow.settings.fields import NotNegative, doc
from convflow.types import InputError


@dataclass(frozen=True)
class UREPASettings(EncoderSettings):
    """The settings of `UREPA`: the width of the projector, and the factor of its second term."""

    hidden: Hidden = 2048
    manifold: Annotated[NotNegative, doc("factor on the distance of the matrices of cosines")] = 3.0


class UREPA(Alignment):
    """-cos(up(project(h))_p, y_p), and the distance of two matrices of cosines between places.

    h are the features after the middle stage. The encoder is asked for twice their grid; its
    features y have the grid to which ours are upsampled. The second term is

        manifold * mean_pq (cos(u_p, u_q) - cos(y_p, y_q))^2        where u = up(project(h))

    over pairs of places of one image, or of one frame of a video.

    Raises:
        InputError: a network that is no U.
    """

    usual_weight = 0.5

    def __init__(self, network: Backbone, process: Process, settings: UREPASettings) -> None:
        if (block := middle_block(network)) is None:
            raise InputError(
                f"expected a U-shaped network (dico, fcdm) with the objective u-repa, got "
                f"{network.inner.family} without a middle stage; choose repa or irepa"
            )
        create = partial(create_projector, hidden=settings.hidden)
        super().__init__(network, settings, block, create)
        self.manifold = settings.manifold

    def terms(
        self, network: Callable[..., Any], batch: Inputs, draws: Any
    ) -> dict[str, Float[Tensor, " B"]]:
        """Return `negative_cosine`, from -1 (best) to 1, and `manifold` with its factor."""
        ours = self.project(batch.features[self.block])
        theirs = self.targets(batch, tuple(2 * side for side in ours.shape[-3:-1]))
        ours = resample(ours, tuple(theirs.shape[-3:-1]))
        found = {"negative_cosine": negative_cosine(ours, theirs)}
        if self.manifold:
            distance = (cosines(ours) - cosines(theirs)).square().flatten(1).mean(1)
            found["manifold"] = self.manifold * distance
        return found


def cosines(features: Float[Tensor, "B *T h w F"]) -> Float[Tensor, "B *T N N"]:
    """Return the cosines between the features at all pairs of N = h w places, in float32."""
    with torch.autocast(features.device.type, enabled=False):
        units = F.normalize(features.float().flatten(-3, -2), dim=-1)
        return units @ units.transpose(-2, -1)
