"""What every source of images or videos is: labels known at once, pixels fetched when asked for."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from PIL import Image, UnidentifiedImageError

from convflow.data.files import MAX_PIXELS, check_pixels, decode, identify
from convflow.data.formats import decoders
from convflow.data.headers import HEAD_BYTES, read_header
from convflow.types import InputError, Size

T = TypeVar("T")

_ORIENTATION = 0x0112  # a tag of Exif; 5 to 8 swap height and width


class Groups(NamedTuple):
    """Images that are read together, such as the rows of a row group of a parquet file."""

    numbers: np.ndarray
    """(N,) int64 the group of each image, counted from 0."""
    window: int
    """How many groups the memory of their source holds beside those of the window before."""


class Stamp(NamedTuple):
    """What changes when images may have."""

    text: str
    """Of all images."""
    marks: np.ndarray | None = None
    """(N,) uint64, one for each image; None where the text alone tells."""


@runtime_checkable  # for the shape checks in tests
class Source(Protocol):
    """Labelled images by index, or videos where an attribute `videos` is true.

    `class_names` is empty for unconditional data, and `label` is then 0 everywhere, which is
    "no label" because `num_classes` is 0 too. A source may have captions besides: a method
    `caption(index)` then returns the text, empty for an image without.
    """

    name: str
    class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def label(self, index: int) -> int:
        """Class of the image, in [0, len(class_names))."""
        ...

    def item_name(self, index: int) -> str:
        """File name or table row of the image, for messages."""
        ...

    def read(self, index: int) -> Image.Image | np.ndarray:
        """The decoded image as stored; raises InputError naming it if it cannot be read.

        A video is an array of its frames, (F, H, W, C).
        """
        ...


@runtime_checkable
class SyntheticSource(Protocol):
    """What a Source can do besides when its images are synthetic, drawn and not stored.

    They are exact at every size, so that nothing resizes them, and none can be unreadable.
    """

    def draw(self, index: int, size: Size) -> Image.Image | np.ndarray:
        """The image at `size` (height, width) in pixels; a video has its frames before them."""
        ...


@dataclass
class StoredSource:
    """The Source behind every kind of stored data.

    Args:
        name: What the user gave.
        class_names: Names by class id; empty for unconditional data.
        labels: (N,) int64 class ids.
        describe: Index to the item's name.
        fetch: Index to the encoded bytes, or to an image where nothing is encoded.
        notes: Sentences about what was understood: split, labels, files that are not read.
        stamp: Returns what changes when the images may have; None if nothing tells.
        max_pixels: An image of more pixels is refused before it is decoded.
        head: Index and a number to so many of the first bytes; None where to read them costs as
            much as to read the whole.
        draft: Whether JPEGs much larger than wanted are decoded at 1/2, 1/4 or 1/8 of their size.
        groups: Images that are read together; None where each is read by itself.
        caption: Index to what is said of the image; None where nothing is said of any.
    """

    name: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    describe: Callable[[int], str]
    fetch: Callable[[int], bytes | Image.Image]
    notes: tuple[str, ...] = ()
    stamp: Callable[[], Stamp] | None = None
    max_pixels: int = MAX_PIXELS
    head: Callable[[int, int], bytes] | None = None
    draft: bool = False
    groups: Groups | None = None
    caption: Callable[[int], str] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def label(self, index: int) -> int:
        """Class of the image, in [0, len(class_names)); 0 for unconditional data."""
        return int(self.labels[index])

    def item_name(self, index: int) -> str:
        """File name or table row of the image, for messages."""
        return self.describe(int(index))

    def read(self, index: int, side: int | None = None) -> Image.Image:
        """The image, or the first frame of several, wholly decoded.

        Args:
            index: In [0, N).
            side: Pixels of the longer side that is wanted; with `draft` no side of a JPEG
                falls below it.

        Raises:
            InputError: It is missing, empty, truncated, too large or no image; the message
                names it.
        """

        def decoded(data: bytes | Image.Image) -> Image.Image:
            if isinstance(data, Image.Image):
                return data
            return decode(data, decoders(), self.max_pixels, side if self.draft else None)

        return self._understood(int(index), self.fetch, decoded)

    def header(self, index: int) -> tuple[str, Size]:
        """Pillow's mode, and height and width in pixels; nothing is decoded.

        Raises:
            InputError: As `read`, where the header shows it.
        """

        def said(head: bytes | Image.Image) -> tuple[str, Size]:
            found = None if isinstance(head, Image.Image) else read_header(head)
            if found is None:
                return self._understood(int(index), self.fetch, self._identified)
            check_pixels(found[1], self.max_pixels)
            return found

        head = self.head
        start = self.fetch if head is None else lambda index: head(index, HEAD_BYTES)
        return self._understood(int(index), start, said)

    def _identified(self, data: bytes | Image.Image) -> tuple[str, Size]:
        image = data
        if not isinstance(image, Image.Image):
            image = identify(image, decoders(), self.max_pixels)
        width, height = image.size
        try:
            turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        except Exception:  # of many kinds; the pixels are whole
            turned = False
        return image.mode, (width, height) if turned else (height, width)

    def _understood(
        self,
        index: int,
        fetch: Callable[[int], bytes | Image.Image],
        understand: Callable[[bytes | Image.Image], T],
    ) -> T:
        """What the content of an image says; any error becomes an InputError that names it."""
        data: bytes | Image.Image = b""
        try:
            data = fetch(index)
            return understand(data)
        except InputError as error:
            name = self.item_name(index)
            raise InputError(f"{name}: {str(error).removeprefix(f'{name}: ')}") from error
        except UnidentifiedImageError as error:
            got = "bytes of no known image format" if data else "an empty file"
            raise InputError(self._unreadable(index, got)) from error
        # Decoders raise nearly any exception on damaged bytes; each means "unreadable".
        except Exception as error:
            raise InputError(self._unreadable(index, one_line(error))) from error

    def _unreadable(self, index: int, got: str) -> str:
        return f"{self.item_name(index)}: expected a readable image, got {got}"


def natural_key(text: str) -> tuple[list[Any], str]:
    """Sort key that counts: class2 comes before class10.

    >>> sorted(["class10", "class2"], key=natural_key)
    ['class2', 'class10']
    """
    parts: list[Any] = re.split(r"(\d+)", text.casefold())
    parts[1::2] = map(Decimal, parts[1::2])  # int refuses thousands of digits
    return parts, text


def require(module: str, extra: str, what: str) -> Any:
    """The module of an optional dependency.

    Raises:
        InputError: It is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"expected the package {module.partition('.')[0]} for {what}, got none; "
            f"pip install convflow[{extra}]"
        ) from error


def stamp_of(folder: Path, files: Iterable[str]) -> Stamp:
    """Names, sizes and times of change as text and, for each file, as a number.

    The same wherever `folder` lies.
    """
    hashed, marks, above = hashlib.sha256(), bytearray(), str(folder)
    for file in files:
        try:
            status = os.stat(f"{above}/{file}")
            known = (file, status.st_size, status.st_mtime_ns)
        except OSError:  # a dangling link, or removed meanwhile
            known = (file, -1, -1)
        text = repr(known).encode()
        hashed.update(text)
        marks += hashlib.blake2b(text, digest_size=8).digest()
    return Stamp(hashed.hexdigest(), np.frombuffer(marks, np.uint64))


def holds_videos(source: Any) -> bool:
    """Whether a source says that it has videos in the place of images, with `videos = True`."""
    return bool(getattr(source, "videos", False))


def labels_of(source: Source) -> np.ndarray:
    """(N,) int64 labels of all images."""
    if isinstance(source, StoredSource):
        return np.asarray(source.labels, np.int64)
    return np.array([source.label(index) for index in range(len(source))], np.int64)


def one_line(error: Exception) -> str:
    """The error's message without line breaks, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
