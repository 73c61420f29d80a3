"""Whether data, sizes and network of a training are all of images, or all of videos."""

from __future__ import annotations

from collections.abc import Callable

import torch

from convflow.models.backbone import Backbone
from convflow.training.config import TrainConfig
from convflow.types import InputError, size_text


def check_sides(config: TrainConfig, videos: bool) -> None:
    """Raise InputError unless all sizes have the sides of videos, or of images, as the data."""
    what, example = ("videos", "16x32x32") if videos else ("images", "64x48")
    for key, sizes in (("size", (config.data.size,)), ("sizes", config.data.sizes)):
        for size in sizes:
            if len(size) != 2 + videos:
                numbers = "three numbers" if videos else "two numbers"
                raise InputError(
                    f"--data.{key}: expected {numbers} such as {example} for the {what} of "
                    f"{config.data.path}, got {size_text(size)}; change it"
                )


def check_kind(config: TrainConfig, build: Callable[[], Backbone], videos: bool) -> None:
    """Raise InputError unless data and network are both of images, or both of videos.

    Args:
        config: the complete settings.
        build: makes the network; called where its weights take no memory.
        videos: whether the data are.
    """
    what = "videos" if videos else "images"
    with torch.device("meta"):
        video = build().video
    if video != videos:
        network = "videos" if video else "images"
        cure = "add --model.temporal conv, or factorised for dit and sit"
        raise InputError(
            f"expected a network of {what} for the data {config.data.path}, got "
            f"{config.model['name']} of {network}; "
            f"{cure if videos else 'add --model.temporal none'}"
        )
