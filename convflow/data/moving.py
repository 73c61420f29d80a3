"""Drawn videos of one object each, exact at any size and any number of frames: the data `moving`.

An object of the data set `shapes` goes along a curve before a ground that stays. Video i of a split
is a pure function of (split, i, size), as the images of `convflow.data.shapes` are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from convflow.data.shapes import Design, Drawn, design_of, draw_design
from convflow.types import InputError, Size

VIDEO_SIZE = (16, 32, 32)
"""Frames, height and width in pixels that `read` draws at."""

MOVING_RADII = (0.17, 0.25)
"""Least and largest radius of the circle around an object, in shares of the shorter side."""

NEAR_END = 0.3
"""The object starts within this share of its way along one axis, and ends within that of the other
side, so that it always moves."""

MOST_TURN = math.pi / 2
"""The most that an object turns in a video, in radians."""


@dataclass(frozen=True)
class Motion:
    """A video before it has a size and a number of frames.

    Args:
        object: What is seen, but for where it is and how it is turned.
        path: (3, 2), down and right in [0, 1] of the way that the centre can go: where the curve
            starts, what it bends towards, and where it ends.
        turn: How far the object turns, in radians.
    """

    object: Design
    path: np.ndarray
    turn: float

    def place(self, time: float) -> tuple[float, float]:
        """Down and right at a time in [0, 1]: (1 - t)^2 start + 2 t (1 - t) bend + t^2 end."""
        weights = np.array([(1 - time) ** 2, 2 * time * (1 - time), time**2])
        down, right = (weights @ self.path).tolist()
        return down, right

    def at(self, time: float) -> Design:
        """What is seen at a time in [0, 1]."""
        angle = self.object.angle + self.turn * time
        return replace(self.object, place=self.place(time), angle=angle)


class DrawnMotions(Drawn):
    """The Source `moving`: 20,000 videos in `train`, 2,000 in each other split.

    Examples:
        >>> source = DrawnMotions("test")
        >>> len(source), source.item_name(3), source.draw(3, (8, 48, 32)).shape
        (2000, 'star 3', (8, 48, 32, 3))
    """

    name = "moving"
    splits: ClassVar = {"train": (10, 20_000), "validation": (11, 2_000), "test": (12, 2_000)}
    videos = True

    def read(self, index: int) -> np.ndarray:
        """The video of 16 frames of 32x32, (F, H, W, 3) uint8."""
        return self.draw(index, VIDEO_SIZE)

    def draw(self, index: int, size: Size) -> np.ndarray:
        """The video at `size` (frames, height, width), (F, H, W, 3) uint8."""
        return draw_motion(self.motion(index), size)

    def motion(self, index: int) -> Motion:
        """What the video shows, the same at every size."""
        return _motion(*self._drawn(index, 26))


def _motion(label: int, uniform: Callable[[float, float], float]) -> Motion:
    seen = design_of(label, uniform, MOVING_RADII)
    path = np.array([[uniform(0, 1), uniform(0, 1)] for _ in range(3)])
    axis = 0 if uniform(0, 1) < 0.5 else 1
    ends = [path[0, axis] * NEAR_END, 1 - path[2, axis] * NEAR_END]
    path[[0, 2], axis] = ends if uniform(0, 1) < 0.5 else ends[::-1]
    return Motion(seen, path, uniform(-MOST_TURN, MOST_TURN))


def draw_motion(motion: Motion, size: Size) -> np.ndarray:
    """The video of a motion: frame k of F shows the time (k + 1/2) / F.

    Returns:
        (F, H, W, 3) uint8.

    Raises:
        InputError: A side is below 1, or the size has no frames.
    """
    if len(size) != 3 or min(size) < 1:
        raise InputError(
            "expected a size of frames, height and width such as 16x32x32 for moving, got "
            f"{'x'.join(map(str, size))}; give --data.size so"
        )
    frames, height, width = size
    times = (np.arange(frames) + 0.5) / frames
    return np.stack([draw_design(motion.at(time), (height, width)) for time in times.tolist()])
