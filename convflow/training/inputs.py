"""What the objectives of a step are shown: images in model space, and what else they want."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from convflow import distributed
from convflow.objectives.objective import Inputs
from convflow.training.draws import Draws

if TYPE_CHECKING:
    from convflow.training.trainer import Trainer


def inputs_of(
    trainer: Trainer, images: Tensor, labels: Tensor, draws: Draws, noise: Tensor | None
) -> Inputs:
    """Return some images of a batch as objectives see them.

    Args:
        trainer: whose codec and objectives these are.
        images: uint8 (B, K, H, W), or latents of a store (B, M, C, h, w).
        labels: of these images.
        draws: of these images; they know how many are in the batch of all processes.
        noise: of the codec; None where it needs none.
    """
    losses, images = trainer.losses, images.to(trainer.device)
    data = trainer.codec.latents(images, noise)
    batch = Inputs(data, labels, images_seen=trainer.images_seen)
    if losses.wants_pixels:
        batch = batch._replace(pixels=images)
    if losses.wants_average:
        model: Any = trainer.ema.model
        average, features = trainer.told_size(model, data), model.features_after
        batch = batch._replace(average=average, average_features=features)
    if losses.compares:
        whole = partial(distributed.gather_rows, total=draws.total)
        batch = batch._replace(whole=whole, places=trainer.own_rows(draws.total))
    return batch
