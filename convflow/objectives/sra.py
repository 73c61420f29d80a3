"""SRA: earlier features are to tell what the network's own average sees later, with less noise.

Jiang et al. 2025 (self-representation alignment): no encoder and no images are needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from convflow.models.backbone import Backbone
from convflow.objectives.alignment import BlockChoice, resample
from convflow.objectives.objective import Inputs, Objective, Wants
from convflow.objectives.repa import Hidden
from convflow.objectives.taps import aligned_block, block_at, create_projector
from convflow.processes.ddpm import DDPM
from convflow.processes.process import Process
from convflow.settings.fields import Fraction, Natural, Positive, doc

TEACHER_DEPTH = 5 / 7
"""Block 20 of 28, as published."""


class SRA(Objective):
    """smooth-L1(project(h(x_t)), h'(x_t')), the mean over places and channels.

    h are features of the network after a block, h' those of its average after a later one, at the
    same image, noise and label. t' is nearer to data by up to `ahead` of the whole time, drawn
    evenly for each image. On another grid h' is brought to that of h.
    """

    def __init__(
        self,
        network: Backbone,
        process: Process,
        block: BlockChoice = None,
        teacher_block: Annotated[
            Natural | None,
            doc("block of the average whose features are the target; none = at 5/7 of the depth"),
        ] = None,
        ahead: Annotated[
            Fraction, doc("most that the average's time is nearer to data, of the whole time")
        ] = 0.2,
        beta: Annotated[Positive, doc("error at which smooth-L1 turns from square to linear")] = (
            0.05
        ),
        hidden: Hidden = 2048,
    ) -> None:
        super().__init__()
        self.process, self.ahead, self.beta = process, ahead, beta
        self.block = aligned_block(network) if block is None else block
        later = block_at(network, TEACHER_DEPTH) if teacher_block is None else teacher_block
        self.teacher_block = later
        self.wants = Wants(features=(self.block,), average=True, first=True)
        widths = network.feature_width(self.block), network.feature_width(later)
        self.project = create_projector(*widths, hidden)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, " B"]:
        """Return how far each image's second time is ahead, as a share of the whole time."""
        return self.ahead * torch.rand(shape[0], generator=generator, device=generator.device)

    def terms(
        self, network: Callable[..., Any], batch: Inputs, draws: Float[Tensor, " B"]
    ) -> dict[str, Float[Tensor, " B"]]:
        """Return `smooth_l1` of each image, at least 0."""
        assert batch.first is not None
        assert batch.average_features is not None
        ours = self.project(batch.features[self.block]).float()
        later = nearer_data(self.process, batch.first.draws, draws)
        with torch.no_grad(), batch.average_features([self.teacher_block]) as found:
            self.process.loss_at(batch.average, batch.data, batch.labels, later)
        theirs = resample(found[self.teacher_block].float(), tuple(ours.shape[-3:-1]))
        error = F.smooth_l1_loss(ours, theirs, beta=self.beta, reduction="none")
        return {"smooth_l1": error.flatten(1).mean(1)}


def nearer_data(process: Process, draws: Any, ahead: Float[Tensor, " B"]) -> Any:
    """Return a process's draws with times that are nearer to data, by a share of the whole time.

    Of several scales only those move that take part.
    """
    if isinstance(process, DDPM):  # counts steps into noise
        return draws._replace(t=(draws.t - (ahead * len(process)).round()).clamp(min=0))
    if process.multiscale:
        scales = torch.arange(draws.t.shape[1], device=ahead.device)
        ahead = ahead[:, None] * (scales < draws.active[:, None])
    return draws._replace(t=(draws.t + ahead).clamp(max=1))
