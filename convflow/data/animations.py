"""Frames of animated GIF, WebP and PNG files, and of folders with one picture a frame."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from convflow.data.files import MAX_PIXELS, decode, identify, read_regular
from convflow.data.formats import decoders
from convflow.data.images import to_uint8
from convflow.data.timeline import Timeline, evenly
from convflow.types import InputError

ANIMATION_ENDINGS = (".gif", ".webp", ".apng")
"""Endings of the files that are read here, in small letters."""

_UNTIMED = 100  # milliseconds that players show a frame of a GIF that says 0
_KINDS = ("GIF", "WEBP", "PNG")


def index_animation(path: Path, max_pixels: int = MAX_PIXELS) -> Timeline:
    """Return when the frames of a GIF, WebP or PNG are shown; a picture is one frame.

    Raises:
        InputError: too many pixels.
        Exception: nearly any, where the file is damaged.
    """
    image = identify(read_regular(path), _KINDS, max_pixels)
    unit = 10 if image.format == "GIF" else 1
    stamps = [0]
    for page in ImageSequence.Iterator(image):
        page.load()
        length = round(page.info.get("duration", 0)) or _UNTIMED
        stamps.append(stamps[-1] + max(1, length // unit))
    *stamps, end = stamps
    return Timeline(evenly(stamps), end, Fraction(unit, 1000), image.height, image.width)


def read_animation(path: Path, frames: Sequence[int], max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return some frames of a GIF, WebP or PNG, laid on white where transparent.

    Args:
        path: of the file.
        frames: which, rising; one may be asked for more than once.
        max_pixels: more are refused.

    Returns:
        (F, H, W, 3) uint8.

    Raises:
        InputError: too many pixels.
        Exception: nearly any, where the file is damaged.
    """
    image = identify(read_regular(path), _KINDS, max_pixels)
    pixels = dict[int, np.ndarray]()
    for number in range(frames[-1] + 1):
        image.seek(number)
        image.load()
        if number in frames:
            pixels[number] = to_uint8(image.copy(), 3)
    return np.stack([pixels[number] for number in frames])


def index_frames(folder: Path, files: Sequence[str], max_pixels: int = MAX_PIXELS) -> Timeline:
    """Return the frames of a folder of pictures, which say nothing of times.

    Args:
        folder: that holds them.
        files: their names, in order.
        max_pixels: more are refused.

    Raises:
        InputError: too many pixels.
        Exception: nearly any, where the first picture is damaged.
    """
    data = read_regular(folder / files[0])
    height, width = to_uint8(decode(data, decoders(), max_pixels), 3).shape[:2]
    return Timeline(range(len(files)), len(files), Fraction(0), height, width)


def read_frames(
    folder: Path,
    files: Sequence[str],
    frames: Sequence[int],
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Return some frames of a folder of pictures.

    Args:
        folder: that holds them.
        files: their names, in order.
        frames: which.
        max_pixels: more are refused.

    Returns:
        (F, H, W, 3) uint8.

    Raises:
        InputError: a picture that is damaged, or of another size than the first; it is named.
    """
    pages: list[np.ndarray] = []
    for number in frames:
        try:
            image: Image.Image = decode(
                read_regular(folder / files[number]), decoders(), max_pixels
            )
            page = to_uint8(image, 3)
        except Exception as error:  # of nearly any kind on damaged bytes
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"expected a readable frame {files[number]}, got {reason}") from error
        if pages and page.shape != pages[0].shape:
            (h, w), (height, width) = page.shape[:2], pages[0].shape[:2]
            raise InputError(
                f"expected frames of one size, got {files[number]} of {h}x{w} beside {height}x"
                f"{width} (height x width)"
            )
        pages.append(page)
    return np.stack(pages)
