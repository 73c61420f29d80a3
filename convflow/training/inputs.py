"""What the objectives of a step are shown: images in model space, and what else they want."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from convflow import distributed
from convflow.codecs import PixelCodec
from convflow.nn.dropout import tell_seeds
from convflow.objectives.objective import Inputs
from convflow.training.augmentation import DRAWS, PIXELS
from convflow.training.draws import SEEDS, Draws

if TYPE_CHECKING:
    from convflow.training.trainer import Trainer


def inputs_of(
    trainer: Trainer, images: Tensor, labels: Tensor, draws: Draws, noise: Tensor | None
) -> Inputs:
    """Return some images of a batch as objectives see them.

    Args:
        trainer: whose codec, objectives and augmentation these are.
        images: uint8 (B, K, H, W), or latents of a store (B, M, C, h, w).
        labels: of these images, or numbers of their captions.
        draws: of these images; they know how many are in the batch of all processes. What happens
            to the images is taken out; where that is missing, as in the validation, nothing does.
            So are the seeds of dropout, which the network is given.
        noise: of the codec; None where it needs none.
    """
    losses, codec, images = trainer.losses, trainer.codec, images.to(trainer.device)
    strengths, told, data = draws.pop(DRAWS, None), None, None
    if (seeds := draws.pop(SEEDS, None)) is not None:
        tell_seeds(trainer.model, seeds)
    if losses.augmentation is not None and strengths is not None:
        told = losses.augmentation.tell(images, strengths)
        changed = losses.augmentation.change(images, strengths)
        if losses.augmentation.stored:
            images = changed
        else:
            data = changed if isinstance(codec, PixelCodec) else None  # neither rounded nor cut off
            images = PIXELS.decode(changed) if data is None or losses.wants_pixels else images
    data = codec.latents(images, noise) if data is None else data
    cond = labels if trainer.captions is None else trainer.captions.conditions(labels)
    batch = Inputs(data, cond, told=told, images_seen=trainer.images_seen)
    if draws.features is not None:
        batch = batch._replace(encoded=draws.features.to(trainer.device).float())
    elif losses.wants_pixels:
        batch = batch._replace(pixels=images)
    if losses.wants_average:
        model: Any = trainer.ema.model
        average, features = trainer.told_size(model, data), model.features_after
        batch = batch._replace(average=average, average_features=features)
    if losses.compares:
        whole = partial(distributed.gather_rows, total=draws.total)
        batch = batch._replace(whole=whole, places=trainer.own_rows(draws.total))
    return batch
