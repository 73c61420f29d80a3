"""When the frames of a video are shown, and which of them make up a clip.

Times are whole ticks of the clock of a file, so that nothing is rounded. A clip at another rate
takes at each of its times the frame that is on screen then, as a player does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from convflow.types import InputError


class Timeline(NamedTuple):
    """When each frame of a video is shown.

    Examples:
        >>> film = Timeline(range(0, 240, 10), 240, Fraction(1, 240), 32, 48)
        >>> len(film.stamps), film.seconds
        (24, 1.0)
    """

    stamps: range | np.ndarray
    """(F,) ticks at which frames begin, rising; a range where they are evenly spaced."""
    end: int
    """Tick at which the last frame ends."""
    tick: Fraction
    """Seconds; 0 where nothing says when frames are shown, as of pictures in a folder."""
    height: int
    """In pixels, as shown."""
    width: int
    counted: bool = False
    """Whether the file gives no times, so that frames are found by counting from the first."""

    @property
    def seconds(self) -> float:
        """How long it lasts; 0 where nothing says."""
        return float((self.end - int(self.stamps[0])) * self.tick)


def evenly(stamps: Sequence[int]) -> range | np.ndarray:
    """Return rising numbers as a range where they are evenly spaced, else as an array."""
    array = np.asarray(stamps, np.int64)
    step = int(array[1] - array[0]) if len(array) > 1 else 1
    if (np.diff(array) == step).all():
        return range(int(array[0]), int(array[0]) + step * len(array), step)
    return array


class Clips(NamedTuple):
    """How clips are taken from videos.

    Args:
        frames: Of each clip.
        fps: Frames a second to which a video is brought first; 0 takes its own frames.
        stride: Steps between frames of a clip, in frames after that.
        start: `windows` are the clips one after the other that fit, none overlapping; `random` is
            one clip a video, from anywhere.
    """

    frames: int
    fps: float = 0.0
    stride: int = 1
    start: str = "windows"

    @property
    def span(self) -> int:
        """Frames from the first of a clip to its last, both counted."""
        return (self.frames - 1) * self.stride + 1


def num_frames(timeline: Timeline, clips: Clips) -> int:
    """Return how many frames a video has at the rate of the clips, each shown within it."""
    if not clips.fps or not timeline.tick:
        return len(timeline.stamps)
    length = timeline.end - int(timeline.stamps[0]) - _rounding(timeline)
    return max(1, math.ceil(length * timeline.tick * Fraction(clips.fps)))


def num_clips(timeline: Timeline, clips: Clips) -> int:
    """Return how many clips a video gives.

    Raises:
        InputError: It is too short for one.
    """
    count = num_frames(timeline, clips)
    if count < clips.span:
        rate = f" at {clips.fps:g} frames a second" if clips.fps and timeline.tick else ""
        strided = f" (stride {clips.stride})" if clips.stride > 1 else ""
        raise InputError(
            f"expected at least {clips.span} frames{rate} for a clip of {clips.frames}{strided}, "
            f"got {count}"
        )
    if clips.start == "random":
        return 1
    return 1 + (count - clips.span) // (clips.frames * clips.stride)


def frames_of(
    timeline: Timeline, clips: Clips, number: int = 0, place: float | None = None
) -> list[int]:
    """Return which frames of a video make up one of its clips, in order.

    Args:
        timeline: Of a video that is long enough, see `num_clips`.
        clips: How they are taken.
        number: Which of the clips one after the other.
        place: Where the clip begins instead, in [0, 1), 0 at the first frame and just below 1 as
            late as it fits.
    """
    first = number * clips.frames * clips.stride
    if place is not None:
        first = math.floor(place * (num_frames(timeline, clips) - clips.span + 1))
    wanted = range(first, first + clips.span, clips.stride)
    if not clips.fps or not timeline.tick:
        return list(wanted)
    begin, rate = int(timeline.stamps[0]) + _rounding(timeline), Fraction(clips.fps) * timeline.tick
    times = [math.floor(begin + number / rate) for number in wanted]
    shown = np.searchsorted(np.asarray(timeline.stamps), times, side="right") - 1
    return shown.tolist()


def _rounding(timeline: Timeline) -> Fraction:
    """Ticks that are forgiven, for files round times to their clock; less than half a frame."""
    each = Fraction(timeline.end - int(timeline.stamps[0]), len(timeline.stamps))
    return min(Fraction(1, 2), each / 4)
