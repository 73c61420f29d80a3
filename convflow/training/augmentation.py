"""Augmentation of training images, told to the network beside time and label.

Karras et al. 2022 (EDM), appendix F.2. What the network is told goes through a matrix that is zero
at first, has no bias, and belongs to the training alone: samples are drawn as if it was not there,
for zeros would be told.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

from torch import Tensor, nn

from convflow.codecs import PixelCodec
from convflow.conditions.added import Added
from convflow.conditions.labels import count
from convflow.data.augment import (
    NUM_TOLD,
    OF_CELLS,
    OF_COLOUR,
    AugmentKind,
    Strengths,
    augment,
    draw_strengths,
    fit,
    move_cells,
    tell,
)
from convflow.models.backbone import Backbone
from convflow.nn.embed import VectorEmbedding
from convflow.seeds import AUGMENTATION_KEYS, generator_of
from convflow.training.config import DataConfig
from convflow.types import InputError

PIXELS = PixelCodec()
"""From uint8 to [-1, 1], where images are changed."""

DRAWS = "--data.augment"
"""The key of what happens to images among the draws of a step; no objective has this name."""


class Augmentation(nn.Module):
    """What happens to training images, and the embedding by which the network is told.

    Args:
        network: that is trained.
        config: the settings of the images.
        stored: whether the images are latents of a store.
        seed: of the training.

    Attributes:
        kinds: the changes that may happen.

    Raises:
        InputError: a network without stem, condition, trunk and head; or changes that these images
            cannot show.
    """

    def __init__(self, network: Backbone, config: DataConfig, stored: bool, seed: int) -> None:
        super().__init__()
        self.probability, self.seed, self.stored = config.augment, seed, stored
        self.kinds = fitting_kinds(config, stored)
        make = partial(VectorEmbedding, NUM_TOLD)
        try:
            self.embedding = network.inner.create_condition(make)
        except (InputError, NotImplementedError) as error:
            raise InputError(
                f"--data.augment: expected a network that can be told of it, got {network.family} "
                "without create_condition; derive it from ImageBackbone and define that, or leave "
                "--data.augment out"
            ) from error

    def draw(self, count: int, images_seen: int) -> Strengths:
        """Return what happens to the `count` images of a step: a function of seed and images."""
        generator = generator_of(self.seed, *AUGMENTATION_KEYS, images_seen)
        return draw_strengths(count, self.probability, self.kinds, generator)

    def change(self, images: Tensor, strengths: Strengths) -> Tensor:
        """Return images after what happens to them.

        Args:
            images: uint8 (B, K, H, W), or latents of a store (B, M, C, h, w); of videos the frames
                stand before the height, and all change alike.
            strengths: of these images.

        Returns:
            Float32 (B, K, H, W) in about [-1, 1], neither rounded nor cut off; or the latents.
        """
        strengths = self._fit(images, strengths)
        if self.stored:
            return move_cells(images.flatten(1, -3), strengths).view(images.shape)
        if images.dim() == 5:
            count = images.shape[2]
            each = Strengths(*(part.repeat_interleave(count, 0) for part in strengths))
            frames = augment(PIXELS.encode(images.transpose(1, 2).flatten(0, 1)), each)
            return frames.unflatten(0, (-1, count)).transpose(1, 2)
        return augment(PIXELS.encode(images), strengths)

    def tell(self, images: Tensor, strengths: Strengths) -> Tensor:
        """Return what the network is told of these images, (B, 16), on their device."""
        return tell(self._fit(images, strengths)).to(images.device)

    def _fit(self, images: Tensor, strengths: Strengths) -> Strengths:
        return fit(strengths, images.shape[-2], images.shape[-1], cells=self.stored)

    def forward(self, told: Tensor) -> Any:
        """Return what is added to the condition: a vector for each image, or one a level."""
        return self.embedding(told)


def fitting_kinds(config: DataConfig, stored: bool) -> tuple[AugmentKind, ...]:
    """Return the changes that may happen to images with these settings.

    Raises:
        InputError: changes that were asked for, and that these images cannot show.
    """
    named, every = config.augment_kinds, get_args(AugmentKind)
    unfit = {kind for kind in every if stored and kind not in OF_CELLS}
    unfit |= OF_COLOUR if config.channels == 1 else set()
    wrong = [kind for kind in named if kind in unfit]
    if wrong:
        what = "a store of latents" if stored and wrong[0] not in OF_CELLS else "grey images"
        fitting = ",".join(kind for kind in every if kind not in unfit)
        cure = ", or --data the images themselves" if stored else ""
        raise InputError(
            f"--data.augment-kinds: expected changes that {what} can show, got {','.join(wrong)}; "
            f"give {fitting}{cure}"
        )
    return tuple(kind for kind in every if kind not in unfit and (not named or kind in named))


def told(network: Callable[..., Any], vectors: Any) -> Callable[..., Any]:
    """Return a network that adds vectors, of a batch, to the condition of that batch.

    Raises:
        InputError: when it is called with another number of samples.
    """
    expected = len(vectors) if isinstance(vectors, Tensor) else len(vectors[0])

    def call(x: Any, t: Tensor, y: Any, *more: Any, **named: Any) -> Any:
        if (got := count(y)) != expected:
            raise InputError(
                f"--data.augment: expected objectives that call the network with the {expected} "
                f"images of the batch, got {got}; call it once for each part, or leave "
                "--data.augment out"
            )
        return network(x, t, Added(y, vectors), *more, **named)

    return call


def describe(augmentation: Augmentation) -> str:
    """Return a line about what happens to the images."""
    return (
        f"each of {', '.join(augmentation.kinds)} happens to an image with probability "
        f"{augmentation.probability:g}, and the network is told; samples show none of it"
    )
