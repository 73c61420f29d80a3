"""Video files made for tests: each frame shows its own number, in bits that no codec blurs."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

BITS, CELL = 6, 8
HEIGHT, WIDTH = 16, BITS * CELL


def numbered(count: int, first: int = 0) -> np.ndarray:
    """Frames (F, 16, 48, 3) uint8: above the bits of each number, below a ramp to the right."""
    frames = np.zeros((count, HEIGHT, WIDTH, 3), np.uint8)
    for frame, number in zip(frames, range(first, first + count), strict=True):
        bits = [(number >> bit) & 1 for bit in range(BITS)]
        frame[:CELL] = np.repeat(bits, CELL)[None, :, None] * 255
        frame[CELL:] = np.linspace(0, 255, WIDTH)[None, :, None]
    return frames


def numbers(frames: np.ndarray) -> list[int]:
    """The number that each of the frames (F, H, W, C) shows."""
    middles = frames[:, CELL // 2, CELL // 2 :: CELL].mean(-1) > 127
    return (middles @ 2 ** np.arange(BITS)).tolist()


def make_film(
    path: Path,
    frames: np.ndarray,
    *,
    codec: str = "libx264",
    form: str = "yuv420p",
    rate: int = 24,
    stamps: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    matrix: Sequence[int] | None = None,
    container: dict[str, str] | None = None,
    audio: bool = False,
) -> Path:
    """Write frames (F, H, W, 3 or 4) as a video file.

    Args:
        path: of the file.
        frames: uint8.
        codec: FFmpeg's name of the encoder.
        form: FFmpeg's name of the pixel format.
        rate: frames a second.
        stamps: when each begins, in milliseconds; evenly by default.
        options: of the encoder.
        matrix: nine numbers of a display matrix; None for none.
        container: options of the file.
        audio: whether half a second of silence goes with them.
    """
    import av

    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = form
        if matrix is not None:
            stream.set_display_matrix(matrix)
        if stamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if audio:
            silence(file)
        for number, pixels in enumerate(frames):
            kind = "rgba" if pixels.shape[2] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), kind)
            if stamps is not None:
                frame.pts, frame.time_base = stamps[number], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def silence(container: Any) -> None:
    """Put half a second of silence into a container that is being written."""
    import av

    stream = container.add_stream("aac", rate=16000)
    for start in range(0, 8000, 1024):
        samples = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
