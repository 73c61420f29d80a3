"""What is scored of videos: whole ones by a detector of videos, or frames of each as pictures.

Frame by frame, the Frechet distance says how real the frames are and nothing of their motion.
Unterthiner et al. 2018 (FVD) take a detector of whole videos, I3D on 16 frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from convflow.data.timeline import Clips
from convflow.evaluation.detectors import PUBLISHED
from convflow.evaluation.image_sets import ImageSet, NpzImages, SourceImages, open_image_set
from convflow.types import InputError, Progress, Size, size_text


class FrameImages:
    """Frames of videos as images of one size: those of a video stand side by side.

    Args:
        videos: (B, C, F, H, W) each.
        each: how many frames of a video, evenly spaced from the first to the last.

    Raises:
        InputError: images in the place of videos, or more frames than a video has.
    """

    def __init__(self, videos: ImageSet, each: int) -> None:
        if len(videos.size) != 3:
            raise InputError(
                f"--frames: expected videos, got images of {size_text(videos.size)}; leave it out"
            )
        if not 1 <= each <= videos.size[0]:
            raise InputError(
                f"--frames: expected 1 to {videos.size[0]} frames of each video, got {each}; "
                "choose fewer"
            )
        self.videos, self.each, self.channels = videos, each, videos.channels
        self.frames = np.linspace(0, videos.size[0] - 1, each).round().astype(int).tolist()

    @property
    def reproducible(self) -> bool:
        """Whether the same number always gives the same frame."""
        return self.videos.reproducible

    @property
    def size(self) -> Size:
        """Height and width in pixels."""
        return self.videos.size[-2:]

    def __len__(self) -> int:
        return len(self.videos) * self.each  # type: ignore[arg-type]

    def read(
        self, indices: Sequence[int], progress: Progress | None = None
    ) -> UInt8[Tensor, "B C H W"]:
        """Return the frames `indices`; each of their videos is read once."""
        places = [divmod(index, self.each) for index in indices]
        wanted = list(dict.fromkeys(video for video, _ in places))
        share = len(indices) / len(wanted)
        told = None if progress is None else lambda count: progress(count * share)
        videos = dict(zip(wanted, self.videos.read(wanted, told), strict=True))
        return torch.stack([videos[video][:, self.frames[frame]] for video, frame in places])

    def describe(self) -> dict[str, Any]:
        """Return how the videos came about, and how many frames of each are scored."""
        return {**self.videos.describe(), "size": list(self.size)}


def scored_as(images: ImageSet, detector: str, frames: int | None = None) -> ImageSet:
    """Return what a detector is given of images or videos.

    Args:
        images: of the set.
        detector: its name. The published ones are given all frames of videos one by one, others
            are given whole videos.
        frames: how many frames of each video are given one by one instead.

    Raises:
        InputError: as of `FrameImages`.
    """
    if frames is None and (len(images.size) == 2 or detector not in PUBLISHED):
        return images
    return FrameImages(images, images.size[0] if frames is None else frames)


def open_like(
    images: ImageSet,
    path: str,
    *,
    split: str,
    image_column: str,
    num: int | None,
    clips: Clips | None,
) -> SourceImages | NpzImages | FrameImages:
    """Return what `path` names, at the size of images, and frame by frame where those are so.

    Args:
        images: that are to be compared with it.
        path: as of `open_image_set`.
        split: likewise.
        image_column: likewise.
        num: likewise; of videos, not of their frames.
        clips: likewise.

    Raises:
        InputError: as of `open_image_set`.
    """
    whole = images.videos if isinstance(images, FrameImages) else images
    found = open_image_set(
        path,
        split=split,
        image_column=image_column,
        size=whole.size,
        channels=images.channels,
        num=num,
        clips=clips,
    )
    return FrameImages(found, images.each) if isinstance(images, FrameImages) else found


def clip_entry(images: ImageSet) -> dict[str, Any]:
    """Return under "clip" frames, rate and stride of videos, and what is scored; {} for images."""
    videos = images.videos if isinstance(images, FrameImages) else images
    if len(videos.size) == 2:
        return {}
    clips: Clips | None = getattr(videos, "clips", None)
    scored = f"{images.each} frames of each" if isinstance(images, FrameImages) else "whole videos"
    rate = clips.fps if clips and clips.fps else None
    stride = clips.stride if clips else None
    clip = {"frames": videos.size[0], "scored": scored, "stride": stride, "fps": rate}
    return {"clip": clip}


def title_prefix(images: ImageSet) -> str:
    """Return what begins the titles of scores: "frame-" or "video-", nothing for images."""
    if isinstance(images, FrameImages):
        return "frame-"
    return "video-" if len(images.size) == 3 else ""


def check_clip(path: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raise InputError where a reference is of other clips; a rate that nobody knows fits any.

    Args:
        path: of the reference.
        theirs: what it says, with an entry as of `clip_entry`.
        ours: of the images to score, likewise.
    """
    a, b = (each.get("clip", {}) for each in (theirs, ours))
    for key in ("frames", "scored", "stride", "fps"):
        unknown = key in ("stride", "fps") and None in (a.get(key), b.get(key))
        if a.get(key) != b.get(key) and not unknown:
            raise InputError(
                f"expected a reference with {key} {b.get(key)} like what is scored, got {path} "
                f"with {a.get(key)}; make one with --save-statistics, or give the same --size, "
                "--fps, --stride and --frames"
            )
