"""Many images as one: tiles in rows, for previews and pages."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from convflow.types import InputError


def tile(
    images: UInt8[Tensor, "B C H W"],
    *,
    columns: int | None = None,
    zoom: int = 1,
    gap: int = 2,
    background: int = 255,
) -> Image.Image:
    """Return one image with all images in rows, each pixel drawn as a `zoom` x `zoom` square.

    Args:
        images: grey (C = 1) or colour (C = 3) images of one size, at least one.
        columns: images in a row; by default about as many as rows.
        zoom: integer magnification.
        gap: pixels between images and around them.
        background: grey level of the gaps.

    Raises:
        InputError: no images, channels that are neither grey nor colour, or a layout below 1.
    """
    count, channels, height, width = images.shape
    columns = math.isqrt(max(count - 1, 0)) + 1 if columns is None else columns
    if count < 1 or channels not in (1, 3) or min(columns, zoom) < 1 or gap < 0:
        raise InputError(
            "expected at least one image of 1 or 3 channels, columns and zoom of at least 1 and "
            f"gap of at least 0, got images {tuple(images.shape)}, columns {columns}, zoom {zoom} "
            f"and gap {gap}"
        )
    columns = min(count, columns)
    rows = math.ceil(count / columns)
    high, wide = height * zoom + gap, width * zoom + gap
    page = np.full((rows * high + gap, columns * wide + gap, channels), background, np.uint8)
    for i, image in enumerate(images.permute(0, 2, 3, 1).cpu().numpy()):
        top, left = (i // columns) * high + gap, (i % columns) * wide + gap
        big = image.repeat(zoom, axis=0).repeat(zoom, axis=1)
        page[top : top + high - gap, left : left + wide - gap] = big
    return Image.fromarray(page[..., 0] if channels == 1 else page)


def to_picture(image: UInt8[Tensor, "C *F H W"]) -> Image.Image | list[Image.Image]:
    """Return one grey or colour image as a PIL image, the frames of a video as a list."""
    if image.ndim == 4:
        return [tile(frame[None], gap=0) for frame in image.unbind(1)]
    return tile(image[None], gap=0)
