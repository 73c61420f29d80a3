"""Pieces of images and videos at a size: what is kept of each, and what is cut out of that.

A video is an array (F, H, W, C). Its frames are resized and cut alike, and of more frames than are
wanted some in a row are taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from convflow.data.images import cover, crop, piece, resize_and_crop, shrink, to_uint8
from convflow.types import InputError, Size, size_text

Crop = tuple[float, float] | None
"""Smallest and largest side of random pieces, 1 = as large as fits; None for the middle alone."""

WHOLE = (1.0, 1.0)
"""Random pieces as large as fit."""


def as_uint8(item: Image.Image | np.ndarray, channels: int, size: Size) -> np.ndarray:
    """Pixels of an image (H, W, channels), or of a video (F, H, W, channels), as uint8.

    Args:
        item: As of `to_uint8`, or a video as an array of frames.
        channels: 1 or 3.
        size: Of three sides where a video is wanted.

    Raises:
        InputError: An image in the place of a video or the other way round, or as of `to_uint8`.
    """
    found = isinstance(item, np.ndarray) and item.ndim == 4
    if found != (len(size) == 3):
        what = ("an image", "a video")
        raise InputError(
            f"expected {what[len(size) == 3]} for the size {size_text(size)}, got {what[found]}; "
            f"give a size such as {'16x32x32 (frames x height x width)' if found else '32x32'}"
        )
    if not found:
        return to_uint8(item, channels)
    frames: np.ndarray = np.asarray(item)
    if frames.dtype == np.uint8 and frames.shape[3] in (1, 3) and frames.shape[3] != channels:
        pictures = (Image.fromarray(frame.squeeze()) for frame in frames)
        return np.stack([to_uint8(picture, channels) for picture in pictures])
    # As one tall image, so that the type and the range are those of the whole video.
    tall = to_uint8(frames.reshape(-1, *frames.shape[2:]), channels)
    return tall.reshape(*frames.shape[:3], channels)


def kept(item: np.ndarray, size: Size, wanted: Crop) -> np.ndarray:
    """The least of an image or a video that all its pieces at a size can be cut from.

    Raises:
        InputError: A video of fewer frames than the size has.
    """
    if len(size) == 3:
        middle = some_frames(item, size[0], None)
        item = middle if wanted is None else item
    if wanted is None or wanted == WHOLE:
        return each_frame(lambda frame: cover(frame, size[-2:]), item)
    least = min(wanted)
    return each_frame(lambda frame: shrink(frame, size[-2:], least), item)


def cut(item: np.ndarray, size: Size, wanted: Crop, place: Sequence[float] | None) -> np.ndarray:
    """A piece of what was kept, at a size.

    Args:
        item: From `kept`.
        size: Of the piece, in pixels.
        wanted: As of `kept`.
        place: Where along height and width, how large, and where along time, in [0, 1); None for
            the middle.
    """
    if len(size) == 3:
        item = some_frames(item, size[0], None if place is None or len(place) < 4 else place[3])

    def cut_frame(frame: np.ndarray) -> np.ndarray:
        if wanted is None or wanted == WHOLE:
            return crop(frame, size[-2:], None if place is None or wanted is None else place[:2])
        if place is None:
            return resize_and_crop(frame, size[-2:])
        low, high = wanted
        return piece(frame, size[-2:], place[:2], low + (high - low) * place[2])

    return each_frame(cut_frame, item)


def some_frames(video: np.ndarray, count: int, place: float | None) -> np.ndarray:
    """So many frames of a video in a row, from a place in [0, 1) on; None for the middle.

    Raises:
        InputError: A video of fewer frames.
    """
    more = len(video) - count
    if more < 0:
        raise InputError(
            f"expected a video of at least {count} frames, got one of {len(video)}; give fewer "
            "frames in the size"
        )
    start = more // 2 if place is None else math.floor(place * (more + 1))
    return video[start : start + count]


def each_frame(change: Callable[[np.ndarray], np.ndarray], item: np.ndarray) -> np.ndarray:
    """What a change makes of an image (H, W, C), or of every frame of a video (F, H, W, C)."""
    return change(item) if item.ndim == 3 else np.stack([change(frame) for frame in item])
