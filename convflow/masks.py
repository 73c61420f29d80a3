"""Images and masks of inpainting as people give them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor
from torch.nn import functional

from convflow.codecs import Codec, image_channels
from convflow.data.files import decode, read_regular
from convflow.data.images import resize_and_crop, to_uint8
from convflow.samplers.inpainting import Known
from convflow.types import InputError, Size

Picture = Image.Image | np.ndarray | str | os.PathLike[str]
"""An image: of Pillow, an array (H, W) or (H, W, C), or a file."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""Pillow's names of the formats of files."""

WHITE = 128
"""Grey levels from which on a mask is white."""

UNSEEN_LEVEL = 255
"""The level that codecs see in place of pixels that are drawn anew."""


def read_known(
    image: Picture | None, mask: Picture | None, size: Size, in_channels: int, codec: Codec
) -> Known | None:
    """Return the known part of an image, None where neither image nor mask is given.

    Both are brought to the size as training images are: resized until they cover it, then cut from
    the middle. An image that has the size stays as it is.

    Args:
        image: of any size.
        mask: of the same size; white is drawn anew, black is kept. Grey counts as the nearer one.
        size: height and width in pixels.
        in_channels: of model space.
        codec: of the model.

    Raises:
        InputError: one of the two is missing, is no image or has another size than the other, or
            nothing is to be drawn.
    """
    if image is None and mask is None:
        return None
    if image is None or mask is None:
        raise InputError(
            "expected an image and a mask together, got one of them; give both or none"
        )
    if len(size) != 2:
        raise InputError(
            "expected a model of images with an image and a mask, got one of videos; leave both out"
        )
    channels = image_channels(codec, in_channels) or 3
    picture, painted = _read(image, "image", channels), _read(mask, "mask", 1)
    if picture.shape[:2] != painted.shape[:2]:
        (height, width), (high, wide) = picture.shape[:2], painted.shape[:2]
        raise InputError(
            f"expected a mask of {height}x{width} (height x width) as the image, got {high}x{wide};"
            " paint it on the image"
        )
    pixels = _to_tensor(resize_and_crop(picture, size))
    kept = _to_tensor(resize_and_crop(painted, size)) < WHITE
    if bool(kept.all()):
        raise InputError("expected a mask that is white somewhere, got none; paint what to draw")
    seen = torch.where(kept, pixels, UNSEEN_LEVEL)  # an encoder spreads what it sees over all cells
    data = codec.encode(seen.to(getattr(codec, "device", None)))
    return Known(pixels, kept, data, _whole_cells(kept, codec.factor))


def _read(picture: Picture, what: str, channels: int) -> np.ndarray:
    """Return the pixels (H, W, channels) of an image, uint8."""
    try:
        if isinstance(picture, str | os.PathLike):
            picture = decode(read_regular(Path(picture)), FORMATS)
        if isinstance(picture, np.ndarray) and picture.dtype in (np.uint8, np.bool_):
            grey = picture.shape[2:] == (1,)
            picture = Image.fromarray(picture[:, :, 0] if grey else picture)
        return to_uint8(picture, channels)
    except OSError as error:
        reason = error.strerror or "no image can be read there"
        raise InputError(f"{what}: {picture}: {reason}; give a PNG or JPEG file") from error
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    except Exception as error:  # of a damaged file, nearly any
        raise InputError(
            f"{what}: expected an image, got one that cannot be read ({type(error).__name__}); "
            "give another"
        ) from error


def _to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None]


def _whole_cells(kept: Bool[Tensor, "1 1 H W"], factor: int) -> Bool[Tensor, "1 1 h w"]:
    """Return which cells of model space have known pixels alone."""
    return functional.max_pool2d((~kept).float(), factor) == 0
