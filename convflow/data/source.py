"""What every source of images is: labels known at once, pixels fetched when asked for."""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image, UnidentifiedImageError

from convflow.data.files import MAX_PIXELS, decode
from convflow.data.formats import decoders
from convflow.types import InputError, Size


@runtime_checkable  # for the shape checks in tests
class Source(Protocol):
    """Labelled images by index.

    `class_names` is empty for unconditional data, and `label` is then 0 everywhere, which is
    "no label" because `num_classes` is 0 too.
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
        """The decoded image as stored; raises InputError naming it if it cannot be read."""
        ...


@runtime_checkable
class SyntheticSource(Protocol):
    """What a Source can do besides when its images are synthetic, drawn and not stored.

    They are exact at every size, so that nothing resizes them, and none can be unreadable.
    """

    def draw(self, index: int, size: Size) -> Image.Image:
        """The image at `size` (height, width) in pixels."""
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
        stamp: Returns a text that changes when the images may have; None if nothing tells.
        max_pixels: An image of more pixels is refused before it is decoded.
    """

    name: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    describe: Callable[[int], str]
    fetch: Callable[[int], bytes | Image.Image]
    notes: tuple[str, ...] = ()
    stamp: Callable[[], str] | None = None
    max_pixels: int = MAX_PIXELS

    def __len__(self) -> int:
        return len(self.labels)

    def label(self, index: int) -> int:
        """Class of the image, in [0, len(class_names)); 0 for unconditional data."""
        return int(self.labels[index])

    def item_name(self, index: int) -> str:
        """File name or table row of the image, for messages."""
        return self.describe(int(index))

    def read(self, index: int) -> Image.Image:
        """The image, or the first frame of several, wholly decoded.

        Raises:
            InputError: It is missing, empty, truncated, too large or no image; the message
                names it.
        """
        try:
            data = self.fetch(int(index))
            if isinstance(data, Image.Image):
                return data
            return decode(data, decoders(), self.max_pixels)
        except InputError as error:
            raise InputError(f"{self.item_name(index)}: {error}") from error
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


def stamp_of(folder: Path, files: Iterable[str]) -> str:
    """SHA-256 of names, sizes and times of change: another text when a file was written anew.

    The same wherever `folder` lies.
    """
    hashed = hashlib.sha256()
    for file in files:
        try:
            status = (folder / file).stat()
            known = (file, status.st_size, status.st_mtime_ns)
        except OSError:  # a dangling link, or removed meanwhile
            known = (file, -1, -1)
        hashed.update(repr(known).encode())
    return hashed.hexdigest()


def one_line(error: Exception) -> str:
    """The error's message without line breaks, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
