"""Frames of video files through PyAV: counted exactly, found exactly, upright and in RGB.

A file is indexed once, by the times that its packets carry; a frame is found later by its time,
decoded from the last key frame before it. Where a file gives no times, or a key frame turns out not
to be one, frames are counted from the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convflow.data.files import MAX_PIXELS, check_pixels
from convflow.data.images import to_uint8
from convflow.data.source import one_line, require
from convflow.data.timeline import Timeline, evenly
from convflow.types import InputError

FILM_ENDINGS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")
"""Endings of the files that are read here, in small letters."""

_WHOLE = 0.9  # of the length that a Matroska file says; less is a file that was cut off
_MATRIX_UNIT = 2**16  # of a display matrix


def index_film(path: Path, max_pixels: int = MAX_PIXELS) -> Timeline:
    """Return when the frames of a video file are shown; of the pixels the first frame is decoded.

    Args:
        path: of the file.
        max_pixels: frames of more are refused before one is decoded.

    Raises:
        InputError: av is missing; the file is no video, holds sound alone, or no frame.
    """
    with _opened(path, max_pixels) as (container, stream):
        try:
            first = next(iter(container.decode(stream)), None)
        except _error() as error:
            raise InputError(f"expected a readable first frame, got {_reason(error)}") from error
        if first is None:
            raise InputError("expected a video, got a file without frames")
        height, width = _upright(first, np.empty((first.height, first.width, 0))).shape[:2]
    with _opened(path, max_pixels) as (container, stream):
        packets = [each for each in container.demux(stream) if each.size and not each.is_discard]
        times = {each.pts: each.duration or 0 for each in packets if each.pts is not None}
        tick, rate = stream.time_base, stream.average_rate or stream.guessed_rate
        timed = container.format.name != "avi"  # which keeps the order of decoding alone
        said, cut = stream.metadata.get("DURATION", ""), any(each.is_corrupt for each in packets)
    if timed and len(times) == len(packets) and first.pts == min(times):
        stamps = sorted(times)
        step = (stamps[-1] - stamps[0]) // max(1, len(stamps) - 1)
        end = stamps[-1] + (times[stamps[-1]] or step or 1)
        timeline = Timeline(evenly(stamps), end, Fraction(tick), height, width)
        if cut or timeline.seconds < _WHOLE * _seconds(said):
            raise InputError(
                f"expected a whole video, got one that is cut off after {timeline.seconds:.3g} s; "
                "copy it again"
            )
        return timeline
    with _opened(path, max_pixels) as (container, stream):
        count = sum(1 for _ in container.decode(stream))
    tick = 1 / Fraction(rate) if rate else Fraction(0)
    return Timeline(range(count), count, tick, height, width, counted=True)


def read_film(
    path: Path,
    timeline: Timeline,
    frames: Sequence[int],
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Return some frames of a video file, upright, laid on white where transparent.

    Args:
        path: of the file.
        timeline: of the same file, from `index_film`.
        frames: which, rising; one may be asked for more than once.
        max_pixels: frames of more are refused.

    Returns:
        (F, H, W, 3) uint8.

    Raises:
        InputError: as above, or a frame cannot be decoded; the message says which.
    """
    stamps = [int(timeline.stamps[number]) for number in frames]
    found = dict[int, np.ndarray]()
    for begin in dict.fromkeys((0 if timeline.counted else stamps[0], None)):
        with _opened(path, max_pixels) as (container, stream):
            try:
                found = _decode(container, stream, {*stamps}, begin, timeline.counted)
            except _error() as error:
                if begin is None:
                    raise InputError(
                        f"expected readable frames {frames[0]} to {frames[-1]} of "
                        f"{len(timeline.stamps)}, got {_reason(error)}; repair the file"
                    ) from error
        if len(found) == len({*stamps}):
            return np.stack([found[stamp] for stamp in stamps])
    missing = next(
        number for number, stamp in zip(frames, stamps, strict=True) if stamp not in found
    )
    raise InputError(
        f"expected frame {missing} of {len(timeline.stamps)}, got a file that is damaged there; "
        "repair it"
    )


def _decode(
    container: Any, stream: Any, wanted: set[int], begin: int | None, counted: bool
) -> dict[int, np.ndarray]:
    """Frames by time (or number), as many as are found intact from the key frame before `begin`.

    None begins at the first frame, and takes no damaged frame for an intact one either.
    """
    found = dict[int, np.ndarray]()
    if begin is not None and not counted:
        container.seek(begin, stream=stream, backward=True)
    for number, frame in enumerate(container.decode(stream)):
        stamp = number if counted else frame.pts
        if frame.is_corrupt or (not number and begin is not None and stamp > begin):
            break
        if stamp in wanted:
            found[stamp] = _pixels(frame)
        if len(found) == len(wanted):
            break
    return found


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[tuple[Any, Any]]:
    """Give the container and the video of a file, decoded by one thread, damage being an error."""
    av = require("av", "video", f"videos called *{path.suffix}")
    try:
        container = av.open(str(path), metadata_errors="ignore")
    except av.FFmpegError as error:
        if path.exists() and not path.stat().st_size:
            raise InputError("expected a readable video, got an empty file") from error
        raise InputError(f"expected a readable video, got {_reason(error)}") from error
    with container:
        pictures = av.stream.Disposition.attached_pic
        streams = [each for each in container.streams.video if not each.disposition & pictures]
        if not streams:
            kinds = ", ".join(sorted({each.type for each in container.streams})) or "nothing"
            raise InputError(f"expected a video, got a file with {kinds} alone")
        stream = streams[0]
        context = stream.codec_context
        if context is None:
            raise InputError("expected a video that av can decode, got another codec")
        check_pixels((context.height, context.width), max_pixels)
        context.thread_count = 1
        context.options = {"err_detect": "explode"}
        yield container, stream


def _seconds(duration: str) -> float:
    """A length such as 00:01:02.5 in seconds; 0 where nothing is said."""
    match = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", duration)
    return 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3]) if match else 0.0


def _reason(error: Exception) -> str:
    """What FFmpeg says, without its number and the name of the file."""
    return re.sub(r"^\[Errno \d+\] |: '.*'$", "", one_line(error))


def _error() -> Any:
    return require("av", "video", "videos").FFmpegError


def _pixels(frame: Any) -> np.ndarray:
    """A decoded frame as (H, W, 3) uint8."""
    transparent = any(part.is_alpha for part in frame.format.components)
    form = "rgba" if transparent else "rgb24"
    pixels = _upright(frame, frame.to_ndarray(format=form, threads=1))
    if pixels.shape[2] == 3:
        return np.ascontiguousarray(pixels)
    return to_uint8(Image.fromarray(np.ascontiguousarray(pixels)), 3)


def _upright(frame: Any, pixels: np.ndarray) -> np.ndarray:
    """Pixels (H, W, C) turned and mirrored as the display matrix of their frame says."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return pixels
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5] / _MATRIX_UNIT
    if abs(b) + abs(c) > abs(a) + abs(d):  # columns become rows
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
