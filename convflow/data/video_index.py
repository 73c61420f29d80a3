"""When the frames of many videos are shown, kept in a file so that the next run begins at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convflow.arrays import read_arrays
from convflow.data.animations import (
    ANIMATION_ENDINGS,
    index_animation,
    index_frames,
    read_animation,
    read_frames,
)
from convflow.data.files import MAX_PIXELS
from convflow.data.images import num_cores
from convflow.data.source import one_line
from convflow.data.timeline import Timeline, evenly
from convflow.data.video_files import index_film, read_film
from convflow.storage import writing_file
from convflow.types import InputError

INDEX_FORMAT = 1
_MOST_GONE = 10_000  # videos that are there no more are forgotten beyond so many
_COLUMNS = 9  # of the table: a timeline but for its uneven stamps


class Video(NamedTuple):
    """A video file, or a folder with one picture a frame."""

    name: str
    """Its path below the folder of the data, with forward slashes."""
    frames: tuple[str, ...] = ()
    """Names of the pictures of a folder, in order; none for a file."""

    def inspect(self, folder: Path, max_pixels: int = MAX_PIXELS) -> Timeline:
        """Return when its frames are shown.

        Raises:
            InputError: nothing can be read of it; the message says why and does not name it.
        """
        place = folder / self.name
        try:
            if self.frames:
                return index_frames(place, self.frames, max_pixels)
            if place.suffix.lower() in ANIMATION_ENDINGS:
                return index_animation(place, max_pixels)
            return index_film(place, max_pixels)
        except InputError:
            raise
        except Exception as error:  # decoders raise nearly any exception on damaged bytes
            raise InputError(f"expected a readable video, got {one_line(error)}") from error

    def read(
        self,
        folder: Path,
        timeline: Timeline,
        frames: Sequence[int],
        max_pixels: int = MAX_PIXELS,
    ) -> np.ndarray:
        """Return some of its frames, which rise, as (F, H, W, 3) uint8; errors as above."""
        place = folder / self.name
        try:
            if self.frames:
                return read_frames(place, self.frames, frames, max_pixels)
            if place.suffix.lower() in ANIMATION_ENDINGS:
                return read_animation(place, frames, max_pixels)
            return read_film(place, timeline, frames, max_pixels)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"expected a readable video, got {one_line(error)}") from error


def index_videos(
    folder: Path,
    videos: Sequence[Video],
    marks: np.ndarray,
    memory: Path | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> list[Timeline | str]:
    """Return when the frames of each video are shown, or why nothing can be read of it.

    Args:
        folder: of the data.
        videos: below it.
        marks: (N,) uint64, another where a video may be another.
        memory: file where this is kept for the next time, bad videos apart; None keeps nothing.
        max_pixels: frames of more are refused.
        progress: called with (videos indexed, videos in all) now and then.
    """
    known = _remembered(memory) if memory is not None else {}
    missing = [i for i, mark in enumerate(marks.tolist()) if mark not in known]

    def look(index: int) -> Timeline | str:
        try:
            return videos[index].inspect(folder, max_pixels)
        except InputError as error:
            return str(error)

    found = dict[int, Timeline | str]()
    with ThreadPoolExecutor(num_cores()) as pool:
        for index, timeline in zip(missing, pool.map(look, missing), strict=True):
            found[index] = timeline
            if progress is not None:
                progress(len(videos) - len(missing) + len(found), len(videos))
    timelines = [
        found[i] if i in found else known.pop(mark) for i, mark in enumerate(marks.tolist())
    ]
    if missing and memory is not None:
        gone = dict(list(known.items())[-_MOST_GONE:])
        now = zip(marks.tolist(), timelines, strict=True)
        _remember(memory, gone | {mark: each for mark, each in now if not isinstance(each, str)})
    return timelines


def _remember(path: Path, timelines: dict[int, Timeline]) -> None:
    """Keep it; a folder that cannot be written to is no reason to stop."""
    rows, uneven = [], [np.empty(0, np.int64)]
    for each in timelines.values():
        even = isinstance(each.stamps, range)
        first, step = int(each.stamps[0]), each.stamps.step if isinstance(each.stamps, range) else 0
        clock = (each.tick.numerator, each.tick.denominator)
        rows.append(
            (len(each.stamps), first, step, each.end, *clock, each.height, each.width, each.counted)
        )
        if not even:
            uneven.append(np.asarray(each.stamps))
    arrays: dict[str, Any] = {
        "marks": np.array(list(timelines), np.uint64),
        "table": np.array(rows, np.int64).reshape(-1, _COLUMNS),
        "uneven": np.concatenate(uneven),
    }
    with suppress(OSError, InputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing_file(path) as draft, draft.open("wb") as file:
            np.savez_compressed(file, **arrays)


def _remembered(path: Path) -> dict[int, Timeline]:
    """Return the timelines of a file by mark; none where the file is of no use."""
    timelines = dict[int, Timeline]()
    # A damaged file raises nearly anything; it was only there to save time.
    with suppress(Exception):
        found, at = read_arrays(path, ["marks", "table", "uneven"]), 0
        rows = found["table"].tolist()
        for mark, row in zip(found["marks"].tolist(), rows, strict=True):
            count, first, step, end, above, below, height, width, counted = row
            stamps: range | np.ndarray = range(first, first + step * count, step or 1)
            if not step:
                stamps, at = evenly(found["uneven"][at : at + count].tolist()), at + count
            if len(stamps) != count or min(count, height, width, below) < 1 or end <= stamps[-1]:
                raise ValueError("this is no index of videos")
            tick = Fraction(above, below)
            timelines[mark] = Timeline(stamps, end, tick, height, width, bool(counted))
        return timelines
    return {}
