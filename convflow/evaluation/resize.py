"""Images made ready for a feature network: resized exactly as the published scores do it.

A score depends on the resize almost as much as on the network (Parmar, Zhang and Zhu 2022, "On
Aliased Resizing and Surprising Subtleties in GAN Evaluation").
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from convflow.types import InputError


def to_colour(images: UInt8[Tensor, "B C H W"]) -> UInt8[Tensor, "B 3 H W"]:
    """Return images with three channels; grey ones (C = 1) have their channel repeated.

    Raises:
        InputError: images that are not uint8, not (B, C, H, W), empty, or of other channels.
    """
    shape = tuple(images.shape)
    if images.dtype != torch.uint8 or images.ndim != 4 or shape[1] not in (1, 3) or 0 in shape:
        raise InputError(
            f"expected uint8 images (B, 1 or 3, H, W), got {images.dtype} {shape}; "
            "convert them to grey or RGB"
        )
    return images.expand(-1, 3, -1, -1)


def resize_as_tensorflow(
    images: Float[Tensor, "B C H W"], size: tuple[int, int]
) -> Float[Tensor, "B C h w"]:
    """Return images resized bilinearly as TensorFlow 1 did: no half-pixel shift, no antialias.

    Output pixel i lies at i * old / new in the input, computed in float32 as there; neighbours
    beyond the last pixel are the last pixel.
    """
    for axis, new in ((-1, size[1]), (-2, size[0])):
        old = images.shape[axis]
        if old == new:
            continue
        ratio = torch.tensor(old, dtype=torch.float32) / new
        place = torch.arange(new, dtype=torch.float32) * ratio
        low = place.floor().long().clamp(max=old - 1)
        part = (place - low).to(images).view(-1, *[1] * (-1 - axis))
        start = images.index_select(axis, low.to(images.device))
        stop = images.index_select(axis, (low + 1).clamp(max=old - 1).to(images.device))
        images = start + (stop - start) * part
    return images


def resize_as_pillow(
    images: Float[Tensor, "B C H W"], size: tuple[int, int]
) -> Float[Tensor, "B C h w"]:
    """Return images resized by Pillow's bicubic filter, which is antialiased, without rounding.

    Equal to `Image.resize(..., BICUBIC)` in Pillow's mode "F"; values may overshoot the range.
    """
    return F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)


def resize_in_8_bits(
    images: UInt8[Tensor, "B 3 H W"], size: tuple[int, int]
) -> UInt8[Tensor, "B 3 h w"]:
    """Return images resized by Pillow itself, bicubically, rounded and clipped after each pass.

    Pillow resizes rows first, then columns, and keeps 8 bits between them.

    Args:
        images: RGB images in 0..255, on any device; they are resized on the CPU.
        size: the new height and width.
    """
    height, width = size
    arrays = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    resized = [
        np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.BICUBIC))
        for array in arrays
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).to(images.device)
