"""Videos as files (MP4, WebM, GIF, WebP, folders of PNGs) and as sheets of frames side by side."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from convflow.data.grid import tile
from convflow.data.source import require
from convflow.storage import writing_file, writing_folder
from convflow.types import InputError

SLOWEST, FASTEST = 0.1, 240.0
"""Frames a second that a file may be written with."""

USUAL_RATE = 8.0
"""Frames a second of what is written where nobody says otherwise."""

SHEET_FRAMES = 8
"""Frames of each video that a sheet of previews shows."""

FASTEST_GIF = 50.0
"""Likewise for GIF: browsers show a frame that lasts less than 2/100 s for 10/100 s."""

_PALETTE_PIXELS = 2**18  # so many of all frames choose the colours of a GIF
_BT709 = 1  # FFmpeg's number of this matrix, of its primaries and of its transfer
_LIMITED = 1  # FFmpeg's number of the range 16 to 235


def write_video(path: Path, frames: UInt8[np.ndarray, "F H W C"], rate: float) -> None:
    """Write a video in the format that the ending of its name says, whole or not at all.

    ============ ========================= =====================================================
    ending       format                    what is lost
    ============ ========================= =====================================================
    `.mp4`       H.264 (x264), yuv420p     colour at half the size, fine detail; an odd side gains
                                           one pixel, a copy of the last
    `.webm`      VP9, yuv420p              colour at half the size, fine detail
    `.gif`       one palette of 256        colours beyond 256, of colour videos; times are rounded
                 colours                   to 1/100 s
    `.webp`      lossless                  nothing; times are rounded to 1/1000 s
    no ending    a folder of PNGs,         the rate
                 `000000.png` and on
    ============ ========================= =====================================================

    GIF and WebP keep a frame that equals the one before as a longer duration of that one.

    Args:
        path: the file, which is replaced if it exists, or a folder, which must not exist.
        frames: (F, H, W, C), grey (C = 1) or colour (C = 3), at least one frame.
        rate: frames a second, from 0.1 to 240; at most 50 for GIF.

    Raises:
        InputError: frames of another shape or type, another ending or rate; the package av, which
            MP4 and WebM need, is missing; or the disk is full or not writable.

    Examples:
        >>> write_video(Path("black.gif"), np.zeros((8, 16, 16, 3), np.uint8), rate=8)
    """
    write = find_writer(path, rate)
    shape, kind = tuple(frames.shape), frames.dtype
    if len(shape) != 4 or kind != np.uint8 or shape[3] not in (1, 3) or 0 in shape:
        raise InputError(
            "expected frames (F, H, W, C) of uint8 with 1 or 3 channels, at least one, got "
            f"{shape} of {kind}"
        )
    write(path, frames, rate)


def find_writer(path: Path, rate: float) -> Callable[[Path, np.ndarray, float], None]:
    """Return what writes videos of a name, before there are any.

    Raises:
        InputError: an ending or a rate that `write_video` refuses, or a missing package.
    """
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise InputError(
            f"expected a video called *{', *'.join(filter(None, _WRITERS))}, or a folder of frames "
            f"without an ending, got {path.name!r}; choose another name"
        )
    fastest = FASTEST_GIF if write is _write_gif else FASTEST
    if not SLOWEST <= rate <= fastest:
        raise InputError(
            f"expected {SLOWEST:g} to {fastest:g} frames a second for {path.name}, got {rate:g}; "
            "choose another rate"
        )
    if write in (_write_mp4, _write_webm):
        require("av", "video", f"videos called *{path.suffix}")
    return write


def sheet(
    videos: UInt8[Tensor, "B C F H W"],
    *,
    num_frames: int | None = None,
    zoom: int = 1,
    gap: int = 2,
    background: int = 255,
) -> Image.Image:
    """Return one image with each video as a row of its frames, from left to right.

    Args:
        videos: grey (C = 1) or colour (C = 3) videos of one size, at least one.
        num_frames: at most so many frames of each, evenly spaced from the first to the last; all
            by default.
        zoom: integer magnification.
        gap: pixels between frames and around them.
        background: grey level of the gaps.

    Raises:
        InputError: no videos, channels that are neither grey nor colour, or a layout below 1.
    """
    count = videos.shape[2]
    shown = count if num_frames is None else max(1, min(num_frames, count))
    chosen = torch.linspace(0, count - 1, shown).round().long()
    frames = videos[:, :, chosen].transpose(1, 2).flatten(0, 1)
    return tile(frames, columns=shown, zoom=zoom, gap=gap, background=background)


def tile_videos(
    videos: UInt8[Tensor, "B C F H W"],
    *,
    columns: int | None = None,
    zoom: int = 1,
    gap: int = 2,
    background: int = 255,
) -> UInt8[np.ndarray, "F h w C"]:
    """Return one video with all videos in rows, for `write_video`; arguments as `tile`."""
    pages = [
        np.asarray(tile(frame, columns=columns, zoom=zoom, gap=gap, background=background))
        for frame in videos.unbind(2)
    ]
    return np.stack(pages).reshape(len(pages), *pages[0].shape[:2], videos.shape[1])


def _write_gif(path: Path, frames: np.ndarray, rate: float) -> None:
    palette = None
    if frames.shape[3] == 3:
        pixels = frames.reshape(-1, 3)
        count = min(len(pixels), _PALETTE_PIXELS)
        chosen = Image.fromarray(pixels[np.linspace(0, len(pixels) - 1, count).astype(int)][None])
        palette = chosen.quantize(256, Image.Quantize.MEDIANCUT, kmeans=1)
    pages = [
        page if palette is None else page.quantize(palette=palette, dither=Image.Dither.NONE)
        for page in _pages(frames)
    ]
    _write_pillow(path, "GIF", pages, _durations(len(pages), rate, 10))


def _write_webp(path: Path, frames: np.ndarray, rate: float) -> None:
    options = {"lossless": True, "quality": 60, "exact": True}
    _write_pillow(path, "WEBP", _pages(frames), _durations(len(frames), rate, 1), **options)


def _write_pngs(path: Path, frames: np.ndarray, rate: float) -> None:
    with writing_folder(path) as draft:
        for number, page in enumerate(_pages(frames)):
            page.save(draft / f"{number:06}.png")


def _write_mp4(path: Path, frames: np.ndarray, rate: float) -> None:
    odd = [(0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)]
    options = {"crf": "16", "preset": "medium"}
    _write_encoded(path, np.pad(frames, odd, "edge"), rate, "libx264", options)


def _write_webm(path: Path, frames: np.ndarray, rate: float) -> None:
    _write_encoded(path, frames, rate, "libvpx-vp9", {"crf": "16", "b": "0"})


_WRITERS: dict[str, Callable[[Path, np.ndarray, float], None]] = {
    ".mp4": _write_mp4,
    ".webm": _write_webm,
    ".gif": _write_gif,
    ".webp": _write_webp,
    "": _write_pngs,
}


def _pages(frames: np.ndarray) -> list[Image.Image]:
    """The frames as pictures, grey ones of mode L."""
    return [Image.fromarray(frame[:, :, 0] if frame.shape[2] == 1 else frame) for frame in frames]


def _durations(count: int, rate: float, unit: int) -> list[int]:
    """Milliseconds of each frame, multiples of `unit`, whose sums stay within half of it."""
    ends = np.rint(np.arange(count + 1) * (1000 / unit / rate)).astype(int)
    return (np.diff(ends) * unit).tolist()


def _write_pillow(
    path: Path, kind: str, pages: list[Image.Image], durations: list[int], **options: Any
) -> None:
    with writing_file(path) as draft:
        pages[0].save(
            draft,
            kind,
            save_all=True,
            append_images=pages[1:],
            duration=durations,
            loop=0,  # for ever
            **options,
        )


def _write_encoded(
    path: Path, frames: np.ndarray, rate: float, codec: str, options: dict[str, str]
) -> None:
    """Write with an encoder of FFmpeg, on one thread so that the bytes are the same everywhere."""
    av = require("av", "video", f"videos called *{path.suffix}")
    if codec not in av.codecs_available:
        raise InputError(
            f"expected the package av with the encoder {codec}, which {path.suffix} needs, got one "
            "without; pip install --force-reinstall av, or write a .gif"
        )
    with writing_file(path) as draft:
        try:
            with av.open(str(draft), mode="w", options={"fflags": "+bitexact"}) as container:
                stream = container.add_stream(
                    codec, rate=Fraction(rate).limit_denominator(1001), options=options
                )
                stream.width, stream.height = frames.shape[2], frames.shape[1]
                context = stream.codec_context
                stream.pix_fmt, context.thread_count = "yuv420p", 1
                context.color_range, context.colorspace = _LIMITED, _BT709
                context.color_primaries = context.color_trc = _BT709
                for frame in np.broadcast_to(frames, (*frames.shape[:3], 3)):
                    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
                    picture = picture.reformat(
                        format="yuv420p",
                        dst_colorspace="ITU709",
                        dst_color_range="MPEG",
                        threads=1,
                    )
                    container.mux(stream.encode(picture))
                container.mux(stream.encode(None))
        except av.FFmpegError as error:
            raise InputError(
                f"could not write {path}: {error}; what was there is unchanged, choose another "
                "size or format"
            ) from error
