"""What the objectives of a step are shown: images in model space, after their augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from convflow.codecs import PixelCodec
from convflow.objectives.objective import Inputs
from convflow.training.augmentation import DRAWS, PIXELS

if TYPE_CHECKING:
    from convflow.training.trainer import Trainer


def inputs_of(
    trainer: Trainer,
    images: Tensor,
    labels: Tensor,
    draws: dict[str, Any],
    noise: Tensor | None,
) -> Inputs:
    """Return some images of a batch as objectives see them.

    Args:
        trainer: whose codec and augmentation these are.
        images: uint8 (B, K, H, W), or latents of a store (B, M, C, h, w).
        labels: of these images.
        draws: of these images. What happens to them is taken out; where that is missing, as in the
            validation, nothing does.
        noise: of the codec; None where it needs none.
    """
    losses, codec, images = trainer.losses, trainer.codec, images.to(trainer.device)
    strengths, told, data = draws.pop(DRAWS, None), None, None
    if losses.augmentation is not None and strengths is not None:
        told = losses.augmentation.tell(images, strengths)
        changed = losses.augmentation.change(images, strengths)
        if losses.augmentation.stored:
            images = changed
        else:
            data = changed if isinstance(codec, PixelCodec) else None  # neither rounded nor cut off
            images = PIXELS.decode(changed) if data is None or losses.wants_pixels else images
    data = codec.latents(images, noise) if data is None else data
    return Inputs(
        data,
        labels,
        average=trainer.told_size(trainer.ema.model, data) if losses.wants_average else None,
        pixels=images if losses.wants_pixels else None,
        told=told,
    )
