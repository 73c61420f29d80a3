"""iREPA: alignment of the spatial structure of features, by a convolution and standardised targets.

Singh et al. 2025 ("What matters for representation alignment"): a 3x3 convolution in place of the
MLP, and targets without what all places of an image have in common.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from jaxtyping import Float
from torch import Tensor

from convflow.models.backbone import Backbone
from convflow.nn.conv import Conv
from convflow.objectives.alignment import (
    Alignment,
    BlockChoice,
    EncoderSettings,
    negative_cosine,
    resample,
)
from convflow.objectives.objective import Inputs
from convflow.processes.process import Process
from convflow.settings.fields import Fraction, doc


@dataclass(frozen=True)
class IREPASettings(EncoderSettings):
    """The settings of `IREPA`: the block that is read, and what targets lose."""

    block: BlockChoice = None
    removed: Annotated[
        Fraction, doc("share of the targets' mean over places that is taken away")
    ] = 1.0


class IREPA(Alignment):
    """-cos(conv(h)_p, z_p), z = (y - removed * mean) / (std + 1e-6), both over places, per channel.

    h and y are as of `REPA`; the projector is one 3x3 convolution.
    """

    def __init__(self, network: Backbone, process: Process, settings: IREPASettings) -> None:
        super().__init__(network, settings, settings.block, Conv)
        self.removed = settings.removed

    def terms(
        self, network: Callable[..., Any], batch: Inputs, draws: Any
    ) -> dict[str, Float[Tensor, " B"]]:
        """Return `negative_cosine`, from -1 (best) to 1."""
        ours = self.project(batch.features[self.block])
        grid = tuple(ours.shape[-3:-1])
        theirs = standardise(self.targets(batch, grid), self.removed)
        return {"negative_cosine": negative_cosine(ours, resample(theirs, grid))}


def standardise(
    features: Float[Tensor, "B *T h w F"], removed: float = 1.0
) -> Float[Tensor, "B *T h w F"]:
    """Return (y - removed * mean) / (std + 1e-6), mean and std of each channel of each frame."""
    mean = features.mean((-3, -2), keepdim=True)
    std = features.std((-3, -2), keepdim=True, correction=0)
    return (features - removed * mean) / (std + 1e-6)
