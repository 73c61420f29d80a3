"""REPA: features within the network are to tell what a frozen encoder sees in the clean image.

Yu et al. 2024 (arXiv 2410.06940), eq. 8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from jaxtyping import Float
from torch import Tensor

from convflow.models.backbone import Backbone
from convflow.objectives.alignment import (
    Alignment,
    BlockChoice,
    EncoderSettings,
    negative_cosine,
    resample,
)
from convflow.objectives.objective import Inputs
from convflow.objectives.taps import create_projector
from convflow.processes.process import Process
from convflow.settings.fields import Width, doc

Hidden = Annotated[Width, doc("hidden features of the projector, three linear layers")]


@dataclass(frozen=True)
class REPASettings(EncoderSettings):
    """The settings of `REPA`: the block that is read, and the width of the projector."""

    block: BlockChoice = None
    hidden: Hidden = 2048


class REPA(Alignment):
    """-cos(project(h_p), y_p), the mean over places p of the features' grid.

    h are the features after a block at a noisy image, y those of the encoder at the clean one,
    brought to the grid of h. `dinov2` looks at images of as many patches as there are places.
    """

    usual_weight = 0.5

    def __init__(self, network: Backbone, process: Process, settings: REPASettings) -> None:
        create = partial(create_projector, hidden=settings.hidden)
        super().__init__(network, settings, settings.block, create)

    def terms(
        self, network: Callable[..., Any], batch: Inputs, draws: Any
    ) -> dict[str, Float[Tensor, " B"]]:
        """Return `negative_cosine`, from -1 (best) to 1."""
        ours = self.project(batch.features[self.block])
        grid = tuple(ours.shape[-3:-1])
        theirs = resample(self.targets(batch, grid), grid)
        return {"negative_cosine": negative_cosine(ours, theirs)}
