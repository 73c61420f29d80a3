"""From any image to uint8 of the wanted size.

The resizing follows Dhariwal and Nichol (2021), "Diffusion Models Beat GANs on Image Synthesis":
halve with a box filter, then bicubic to the covering size, then crop.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from convflow.types import InputError, Size

_BITS_PER_SAMPLE = 258  # a tag of TIFF
_ORIENTATION = 0x0112  # a tag of Exif
_MOST_TARGETS = 16  # a cover of more than so many times the target is not made
_SUPPORT = 3  # source pixels beside a piece that bicubic enlarging may look at: two, and rounding


def to_uint8(image: Image.Image | np.ndarray, channels: int) -> np.ndarray:
    """Pixels of any image as (H, W, channels) uint8.

    Pillow images are turned as their EXIF says (a damaged one says nothing), laid on white where
    transparent, and changed between grey and colour as needed. 16-bit grey (modes I;16 and I) is
    divided by 257, or scaled by what its highest value is where the file says that it uses fewer
    bits; mode F is read as [0, 1]. Arrays keep their channels.

    Args:
        image: A Pillow image, or an array (H, W) or (H, W, channels): uint8, uint16,
            bool, or float in [0, 1].
        channels: 1 or 3 for Pillow images, any number for arrays.

    Raises:
        InputError: The channels, the type or the range of the values do not fit.
    """
    if isinstance(image, np.ndarray):
        return _array_to_uint8(image, channels)
    if channels not in (1, 3):
        raise InputError(f"expected 1 or 3 channels for images, got {channels}; use arrays")
    significant = _said_bits(image)
    image = _upright(image)
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        if image.mode == "I":
            if values.min() < 0 or values.max() > 65535:
                raise InputError(
                    "expected 32-bit integer pixels in 0..65535 (16 bits), "
                    f"got {values.min()}..{values.max()}; save as 8 or 16 bits"
                )
            values = values.astype(np.uint16)
        grey = _array_to_uint8(values, 1, (1 << significant) - 1)
        return np.repeat(grey, channels, axis=2)
    try:
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        mode = "L" if channels == 1 else "RGB"
        image = image if image.mode == mode else image.convert(mode)
    except ValueError as error:
        raise InputError(f"expected grey or colour, got mode {image.mode}") from error
    pixels = np.asarray(image)
    return pixels[:, :, None] if channels == 1 else pixels


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF says; as it is where the EXIF is damaged."""
    image.load()  # Exif may stand after the pixels
    try:
        turned = image.getexif().get(_ORIENTATION, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image  # else it would be copied
    except Exception:  # of many kinds; the pixels are whole
        return image


def is_transparent(image: Image.Image | np.ndarray) -> bool:
    """Whether any pixel lets through what the image is laid on."""
    if isinstance(image, np.ndarray) or not image.has_transparency_data:
        return False
    return bool(np.asarray(image.convert("RGBA").getchannel("A")).min() < 255)


def used_bits(image: Image.Image | np.ndarray) -> int:
    """Bits that the highest value of an image of 16 bits takes, at least 1.

    0 for other images, and where the file itself says how many bits are significant.
    """
    if isinstance(image, np.ndarray):
        said = 16 if image.dtype.kind == "u" and image.dtype.itemsize == 2 else 0
    elif image.mode.startswith("I"):
        said = _said_bits(image)
    elif _depth(image) == 16:  # in colour, of which Pillow keeps the upper half
        return 8 + int(np.asarray(image).max()).bit_length()
    else:
        said = 0
    return max(int(np.asarray(image).max()).bit_length(), 1) if said == 16 else 0


def _depth(image: Image.Image) -> int:
    """Bits a value in the file; 8 where it does not say."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(_BITS_PER_SAMPLE, (image.info.get("depth", 8),))[0]


def _said_bits(image: Image.Image) -> int:
    """Bits of 16 that the file says its values use: a TIFF of 12, a PNG whose sBIT has fewer.

    PNG wants values scaled to all bits, whatever sBIT says; they are if those below are as in a
    copy of those above, which in values that need no bit above means zero.
    """
    if 8 < (depth := _depth(image)) < 16:
        return depth
    bits = (image.info.get("sBIT") or b"\x10")[0]
    if image.mode.startswith("I;16") and 0 < bits < 16:
        values = np.asarray(image)
        if values.max() < 2**bits and np.any(values % 2 ** (16 - bits)):
            return bits
    return 16


def _array_to_uint8(values: np.ndarray, channels: int, top: int = 65535) -> np.ndarray:
    """Pixels of an array as (H, W, channels) uint8; `top` is the white of 16-bit values."""
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.shape[2] != channels or 0 in values.shape:
        raise InputError(
            f"expected an array (height, width, {channels}), got {tuple(values.shape)}"
        )
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:  # of either byte order
        return ((values.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)
    if values.dtype == np.bool_:
        return values * np.uint8(255)
    if values.dtype.kind != "f":
        raise InputError(f"expected uint8, uint16 or float in [0, 1], got {values.dtype}")
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):
        raise InputError(f"expected float pixels in [0, 1], got {low:.4g}..{high:.4g}")
    return np.rint(values * 255).astype(np.uint8)


def resize_and_crop(image: np.ndarray, size: Size) -> np.ndarray:
    """The middle of the image at exactly `size`, its shape kept and the overhang cut off.

    An image that already has the size comes back untouched.

    Args:
        image: (h, w, C) uint8.
        size: Target height and width H, W in pixels.

    Returns:
        (H, W, C) uint8.
    """
    return crop(cover(image, size), size)


def cover(image: np.ndarray, size: Size) -> np.ndarray:
    """The smallest resizing of an image (h, w, C) that covers `size`, its shape kept; uint8.

    Halved with a box filter while it is at least twice the target both ways, then bicubic by
    max(H / h, W / w). A strip so thin that the result would have more than 16 times the pixels of
    `size` is not enlarged: `crop` enlarges the piece that is kept.
    """
    height, width = size
    h, w = image.shape[:2]
    if (h, w) == (height, width):
        return image
    while min(h / height, w / width) >= 2:
        h, w = h // 2, w // 2
        image = _resize(image, (h, w), Image.Resampling.BOX)
    whole = _covering((h, w), size)
    if math.prod(whole) > max(_MOST_TARGETS * height * width, h * w):
        return image
    return _resize(image, whole, Image.Resampling.BICUBIC)


def crop(image: np.ndarray, size: Size, place: Sequence[float] | None = None) -> np.ndarray:
    """A piece (H, W, C) of an image (h, w, C) that comes from `cover`.

    Args:
        image: At least as large as `size`, or a thin strip that is enlarged here.
        size: Height and width H, W in pixels.
        place: Where along both axes, in [0, 1), 0 the top or left end; None for the middle.
    """
    whole = _covering(image.shape[:2], size)
    gaps = (whole[0] - size[0], whole[1] - size[1])
    top, left = (gap // 2 for gap in gaps)
    if place is not None:
        top, left = (math.floor(at * (gap + 1)) for at, gap in zip(place, gaps, strict=True))
    if image.shape[:2] == whole:
        return image[top : top + size[0], left : left + size[1]]
    cuts, box = [], []
    for n, side, start, part in zip(image.shape, whole, (top, left), size, strict=False):
        low, high = start * n / side, (start + part) * n / side
        first = max(math.floor(low) - _SUPPORT, 0)
        cuts.append(slice(first, math.ceil(high) + _SUPPORT))
        box.append((low - first, high - first))
    (y0, y1), (x0, x1) = box
    return _resize(image[tuple(cuts)], size, Image.Resampling.BICUBIC, (x0, y0, x1, y1))


def shrink(image: np.ndarray, size: Size, least: float) -> np.ndarray:
    """An image (h, w, C) of which a piece with `least` of the largest side covers `size`; uint8.

    As `cover` of a larger size, except that no image is enlarged.
    """
    height, width = (math.ceil(side / least) for side in size)
    h, w = image.shape[:2]
    return cover(image, (height, width)) if min(h / height, w / width) > 1 else image


def piece(image: np.ndarray, size: Size, place: Sequence[float], side: float) -> np.ndarray:
    """A piece of an image (h, w, C) in the shape of `size`, resized to it once by bicubic.

    Args:
        image: Of any size.
        size: Height and width H, W in pixels.
        place: Where along both axes, in [0, 1), 0 the top or left end.
        side: Of the piece, as a share of the largest that fits, in (0, 1].
    """
    (h, w), (height, width) = image.shape[:2], size
    unit = side * min(h / height, w / width)
    high, wide = unit * height, unit * width
    top, left = place[0] * (h - high), place[1] * (w - wide)
    if (high, wide) == (height, width):
        return image[round(top) : round(top) + height, round(left) : round(left) + width]
    rows = slice(max(math.floor(top) - _margin(unit), 0), math.ceil(top + high) + _margin(unit))
    columns = slice(
        max(math.floor(left) - _margin(unit), 0), math.ceil(left + wide) + _margin(unit)
    )
    top, left = top - rows.start, left - columns.start
    part = image[rows, columns]
    box = (left, top, min(left + wide, part.shape[1]), min(top + high, part.shape[0]))
    return _resize(part, size, Image.Resampling.BICUBIC, box)


def _margin(unit: float) -> int:
    """Source pixels beside a piece that bicubic resizing by 1 / unit may look at."""
    return math.ceil(_SUPPORT * max(unit, 1))


def _covering(shape: Sequence[int], size: Size) -> Size:
    """Height and width of the smallest resizing of (h, w) that covers `size`."""
    scale = max(size[0] / shape[0], size[1] / shape[1])
    return max(round(shape[0] * scale), size[0]), max(round(shape[1] * scale), size[1])


def _resize(
    image: np.ndarray,
    size: Size,
    how: Image.Resampling,
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """The part of an image in `box` (left, top, right, bottom), or all of it, at `size`."""
    height, width = size
    if image.shape[2] == 3:
        return np.asarray(Image.fromarray(image).resize((width, height), how, box))
    planes = [Image.fromarray(plane) for plane in np.moveaxis(image, 2, 0)]
    return np.stack([np.asarray(p.resize((width, height), how, box)) for p in planes], axis=2)


def num_cores() -> int:
    """Processor cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
