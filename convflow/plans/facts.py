"""What a plan knows of the pictures: their number, sizes, classes, colours and transparency."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from convflow.data.latents import Latents
from convflow.data.source import SyntheticSource, holds_videos
from convflow.training.config import DataConfig
from convflow.training.data import open_images, scan_images
from convflow.types import InputError, Size

NUM_LOOKED_AT = 64
"""Of so many images, evenly spaced, the colours are looked at."""


class Facts(NamedTuple):
    """What is known of a set of images before a training.

    Attributes:
        num_images: usable images.
        num_classes: classes; 0 where there are none.
        size: median height and width in pixels, each for itself; None where images are drawn at
            any size.
        grey: whether no image has a colour, as far as was looked at.
        num_transparent: images that let through what they are laid on.
    """

    num_images: int
    num_classes: int
    size: Size | None
    grey: bool = False
    num_transparent: int = 0

    def __str__(self) -> str:
        size = "drawn at any size" if self.size is None else f"of {self.size[0]}x{self.size[1]}"
        classes = f"{self.num_classes:,} classes" if self.num_classes else "no classes"
        said = f"{'grey ' if self.grey else ''}images {size}, {classes}"
        transparent = f", {self.num_transparent:,} transparent ones laid on white"
        return f"{self.num_images:,} {said}{transparent if self.num_transparent else ''}"


def look(data: DataConfig, device: torch.device) -> Facts:
    """Return what a look at all images finds; the training that follows need not look again.

    Raises:
        InputError: no images, unreadable ones that are not to be skipped, videos, or a store of
            latents.
    """
    source = open_images(data)
    if isinstance(source, Latents):
        raise InputError(
            f"--data: expected images for the recipe pictures, got the store of latents {data.path}"
            "; give the images, or choose a recipe such as imagenet.dit_s"
        )
    if holds_videos(source):
        raise InputError(
            f"--data: expected images for the recipe pictures, got the videos {data.path}; choose "
            "a recipe such as toy.moving"
        )
    images, report = scan_images(source, data, None, device)
    assert not isinstance(images, Latents)
    places = np.linspace(0, len(images) - 1, min(len(images), NUM_LOOKED_AT)).astype(np.int64)
    pixels = images.batch(places)[0]
    grey = bool((pixels == pixels[:, :1]).all())
    size = None if isinstance(source, SyntheticSource) else report.sizes[1]
    return Facts(len(images), len(source.class_names), size, grey, report.num_transparent)
