"""Bytes and images out of files that a stranger may have made: read within limits, or refused."""

from __future__ import annotations

import math
import os
import stat
import struct
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from convflow.types import InputError, Size

MAX_PIXELS = 178_956_970
"""Pixels of an image, by default: as many as Pillow decodes."""

MAX_BYTES = 2**30
"""Bytes of an image's file: `MAX_PIXELS` of 16-bit colour without compression."""

LARGE_PIXELS = 2**25
"""Pixels above which images are decoded one at a time."""

_FREE_BYTES = 2**26  # few bytes are unpacked whatever they shrank by
_MOST_SHRINKING = 100

_TILE_WIDTH, _TILE_HEIGHT = 322, 323  # tags of TIFF
_ONE_AT_A_TIME = threading.Lock()
_LARGE_TURN = threading.RLock()
_blocks = threading.local()

_KINDS = {
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISDIR: "a folder",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def read_regular(path: Path | str, limit: int = MAX_BYTES, first: int | None = None) -> bytes:
    """Return the content of a regular file, through links too; a pipe or a device blocks nothing.

    Args:
        path: of the file.
        limit: most bytes that it may have.
        first: how many bytes to read from its beginning; None for all.

    Raises:
        InputError: it is something else than a regular file, or longer than `limit` bytes.
        OSError: it cannot be read.
    """
    waits = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # neither is everywhere
    handle = os.open(path, os.O_RDONLY | waits)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            kinds = (name for test, name in _KINDS.items() if test(found.st_mode))
            raise InputError(f"expected a regular file, got {next(kinds, 'something else')}")
        _check_length(found.st_size, limit)
        if first is not None:
            return os.read(handle, first)
        with open(handle, "rb", closefd=False) as file:
            return file.read(found.st_size)
    finally:
        os.close(handle)


def read_below(folders: Sequence[Path], path: str) -> bytes:
    """Return the content of a regular file that a table names, if it lies below a folder.

    Args:
        folders: where the file may lie; a relative path begins at the first.
        path: what the table says.

    Raises:
        InputError: it is elsewhere, links resolved, or as for `read_regular`.
        OSError: it cannot be read.
    """
    file = (folders[0] / path).resolve()
    if not any(file.is_relative_to(folder.resolve()) for folder in folders):
        allowed = " or ".join(dict.fromkeys(map(str, folders)))
        raise InputError(f"expected a path below {allowed}, got {path}")
    return read_regular(file)


def read_member(
    archive: zipfile.ZipFile,
    entry: zipfile.ZipInfo,
    limit: int = MAX_BYTES,
    first: int | None = None,
) -> bytes:
    """Return the content of a zip's member; no more is unpacked than its header says.

    Args:
        archive: the zip.
        entry: its member.
        limit: most bytes that it may have.
        first: how many bytes to read from its beginning; None for all.

    Raises:
        InputError: it would be longer than `limit` bytes, or is long and shrank so much that it
            can be no image.
        zipfile.BadZipFile: its header lies, or it is damaged.
    """
    _check_length(entry.file_size, limit)
    whole = os.path.getsize(archive.filename) if archive.filename else entry.compress_size
    check_shrinking(entry.file_size, min(entry.compress_size, whole))  # a header may say anything
    with archive.open(entry) as file:
        return file.read(entry.file_size if first is None else first)


def check_shrinking(unpacked: int, packed: int) -> None:
    """Raise InputError when bytes are many and shrank so much that they can be no images."""
    if unpacked > max(_FREE_BYTES, _MOST_SHRINKING * packed):
        raise InputError(
            f"expected at most {_MOST_SHRINKING} bytes out of each packed one, "
            f"got {unpacked:,} out of {packed:,}"
        )


@contextmanager
def one_large_at_a_time() -> Iterator[None]:
    """Give a block in which a large image keeps all others waiting until the block ends.

    So threads hold one large image at most, if they decode and use images in such blocks.
    """
    with ExitStack() as block:
        _blocks.open = block
        try:
            yield
        finally:
            _blocks.open = None


def identify(data: bytes, formats: Sequence[str], max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return the first frame of an encoded image, of which the header alone is read.

    Args:
        data: the file, at least its header.
        formats: Pillow's names of those to try.
        max_pixels: more are refused.

    Raises:
        InputError: too many pixels.
        PIL.UnidentifiedImageError: none of the formats.
        Exception: nearly any, where the data are damaged.
    """
    Image.init()
    for name in formats:
        if name not in Image.OPEN:  # this Pillow was built without it
            continue
        factory, accepts = Image.OPEN[name]
        try:
            accepted = accepts is None or accepts(data[:16])
            if not accepted or isinstance(accepted, str):  # a text says why not
                continue
            image = factory(BytesIO(data), "")
        except (SyntaxError, IndexError, TypeError, struct.error):  # so says a plugin "not mine"
            continue
        tags = getattr(image, "tag_v2", {})
        tile = tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_HEIGHT, 0)  # decoded whole
        check_pixels(image.size[::-1], max_pixels, tile)
        return image
    raise UnidentifiedImageError("no known image format")


def check_pixels(size: Size, max_pixels: int, tile: int = 0) -> None:
    """Raise InputError where an image (height, width), or its largest tile, has too many pixels."""
    height, width = size
    if max(width * height, tile) > max_pixels:
        raise InputError(
            f"expected at most {max_pixels:,} pixels (max-pixels), "
            f"got {height}x{width} (height x width){' in larger tiles' if tile else ''}"
        )


def decode(
    data: bytes, formats: Sequence[str], max_pixels: int = MAX_PIXELS, side: int | None = None
) -> Image.Image:
    """Return the first frame of an encoded image, wholly decoded.

    What a PNG says of bits stands in `info` then: "depth", and "sBIT" by channel. Pillow's own
    limit, which is one for the whole program and warns, plays no part.

    Args:
        data: the file.
        formats: Pillow's names of those to try.
        max_pixels: more are refused before they are decoded.
        side: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where no side then falls below so
            many pixels; None decodes all of it.

    Raises:
        Exception: as `identify`.
    """
    image = identify(data, formats, max_pixels)
    if side is not None and image.format == "JPEG":
        image.draft(None, (side, side))
    block = getattr(_blocks, "open", None)
    with ExitStack() as call:
        if math.prod(image.size) > LARGE_PIXELS:
            (block or call).enter_context(_LARGE_TURN)
        _load(image)
    if image.format == "PNG":
        image.info |= {"depth": data[24], "sBIT": _significant_bits(data)}
    return image


def _load(image: Image.Image) -> None:
    """Decode, whatever limit the program has set for Pillow: TIFF asks for that once more."""
    pixels = math.prod(image.size)
    if image.format != "TIFF" or pixels <= (Image.MAX_IMAGE_PIXELS or pixels):
        image.load()
        return
    with _ONE_AT_A_TIME:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, pixels
        try:
            image.load()
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check_length(length: int, limit: int) -> None:
    if length > limit:
        raise InputError(f"expected an image of at most {limit:,} bytes, got {length:,}")


def _significant_bits(png: bytes) -> bytes:
    """Return the significant bits of each channel that a PNG names before its pixels, or none."""
    at = 8
    while at + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        if kind == b"sBIT":
            return png[at + 8 : at + 8 + length]
        if kind in (b"IDAT", b"PLTE"):
            break
        at += 12 + length
    return b""
