"""What is known of each image before a training, kept in a file so that the next begins at once."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from convflow.arrays import read_arrays
from convflow.data.files import one_large_at_a_time
from convflow.data.images import is_transparent, num_cores, to_uint8, used_bits
from convflow.data.source import Source, StoredSource, one_line
from convflow.storage import writing_file
from convflow.types import InputError, Size

_BLOCK = 64  # images per task: small images decode faster than a task is handed over
_MOST_OTHERS = 10_000  # images that are there no more are forgotten beyond so many
SCAN_FORMAT = 3


class Seen(NamedTuple):
    """What a usable image is like."""

    mode: str
    """Pillow mode or array type."""
    size: Size
    """Height and width in pixels."""
    bits: int = 0
    """Of 16 how many its values use; 0 where they are not 16, or where the file says how many."""
    transparent: bool = False
    """Anywhere."""
    decoded: bool = False
    """Whether the whole image was read, and not its header alone."""


class Scan:
    """What was seen of each image, or its problem.

    Args:
        marks: (N,) uint64, another where the image may be another.

    Attributes:
        sides: (N, 2) int64 height and width; 0 where nothing was seen.
        modes: (N,) int16 place of the mode in `names`; -1 where nothing usable was seen.
        bits: (N,) uint8 as in `Seen`.
        transparent, decoded: (N,) bool as in `Seen`.
        names: Of the modes.
        problems: Why images are bad, by index; not kept.
        others: What a file says besides, such as of another split, by array.
    """

    def __init__(self, marks: np.ndarray) -> None:
        total = len(marks)
        self.marks = marks
        self.sides = np.zeros((total, 2), np.int64)
        self.modes = np.full(total, -1, np.int16)
        self.bits = np.zeros(total, np.uint8)
        self.transparent = np.zeros(total, np.bool_)
        self.decoded = np.zeros(total, np.bool_)
        self.names: list[str] = []
        self.problems: dict[int, str] = {}
        self.others: dict[str, np.ndarray] = {}

    def note(self, index: int, seen: Seen) -> None:
        """Keep what a usable image is like."""
        if seen.mode not in self.names:
            self.names.append(seen.mode)
        self.modes[index], self.sides[index] = self.names.index(seen.mode), seen.size
        if seen.decoded:
            self.bits[index], self.transparent[index] = seen.bits, seen.transparent
            self.decoded[index] = True

    @classmethod
    def read(cls, path: Path, marks: np.ndarray) -> Scan:
        """Return what is remembered of the marked images; nothing where the file is of no use."""
        scan = cls(marks)
        # A damaged file raises nearly anything; it was only there to save time.
        with suppress(Exception):
            found, names = _remembered(path)
            order = np.argsort(found["marks"], kind="stable")
            places = np.searchsorted(found["marks"], marks, sorter=order)
            rows = order[places.clip(max=len(order) - 1)]
            same = found["marks"][rows] == marks
            for name in _ARRAYS[1:]:
                getattr(scan, name)[same] = found[name][rows[same]]
            left = np.flatnonzero(~np.isin(found["marks"], marks))[-len(marks) - _MOST_OTHERS :]
            scan.names, scan.others = names, {name: found[name][left] for name in _ARRAYS}
        return scan

    def write(self, path: Path) -> None:
        """Remember it; a folder that cannot be written to is no reason to stop."""
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _ARRAYS}
        if self.others:
            arrays = {name: np.concatenate([self.others[name], arrays[name]]) for name in _ARRAYS}
        with suppress(OSError, InputError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with writing_file(path) as draft, draft.open("wb") as file:
                np.savez(file, **arrays, names=np.array(json.dumps(self.names)))


_ARRAYS = ("marks", "sides", "modes", "bits", "transparent", "decoded")


def _remembered(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the arrays of a file and the names of modes, or raise nearly any exception."""
    found = read_arrays(path, [*_ARRAYS, "names"])
    names, blank = json.loads(str(found.pop("names"))), Scan(found["marks"])
    known = found["modes"] >= 0
    fits = [
        (found[name].shape, found[name].dtype) == (own.shape, own.dtype)
        for name in _ARRAYS
        for own in [getattr(blank, name)]
    ]
    if not (
        all(fits)
        and found["marks"].dtype == np.uint64
        and len(known)
        and isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and found["modes"].max() < len(names)
        and (found["sides"][known] > 0).all()
    ):
        raise ValueError("this is no scan")
    return found, names


def scan_missing(
    source: Source,
    channels: int,
    scan: Scan,
    missing: np.ndarray,
    progress: Callable[[int, int], None] | None,
    whole: bool = True,
) -> None:
    """Look at images that are not known yet, on all cores, and note in `scan` what is seen.

    Args:
        source: The images.
        channels: Wanted channels.
        scan: What is known.
        missing: (M,) which to look at.
        progress: Called with (images looked at, images in all) now and then.
        whole: Whether they are decoded; else their headers are read, where the source has some.
    """

    def look(index: int) -> Seen:
        if not whole and isinstance(source, StoredSource):
            return Seen(*source.header(index))
        with one_large_at_a_time():
            image = source.read(index)
            if isinstance(image, np.ndarray) and image.ndim == 4:
                return Seen("video", image.shape[1:3], decoded=True)
            pixels = to_uint8(image, channels)
            mode = image.mode if isinstance(image, Image.Image) else str(image.dtype)
            size = (pixels.shape[0], pixels.shape[1])
            return Seen(mode, size, used_bits(image), is_transparent(image), True)

    def inspect(index: int) -> Seen | str:
        """What the image is like, or why it is bad."""
        try:
            return look(index)
        except InputError as error:
            return str(error).removeprefix(f"{source.item_name(index)}: ")
        # Whatever else decoding trips over belongs to this image, not to the program.
        except Exception as error:
            return f"expected a usable image, got {one_line(error)}"

    def inspect_block(start: int) -> list[tuple[int, Seen | str]]:
        return [(i, inspect(i)) for i in missing[start : start + _BLOCK].tolist()]

    # Odd metadata makes Pillow warn once per image; a bad image is reported.
    with warnings.catch_warnings(), ThreadPoolExecutor(num_cores()) as pool:
        warnings.filterwarnings("ignore", module="PIL")
        done = len(scan.modes) - len(missing)
        for block in pool.map(inspect_block, range(0, len(missing), _BLOCK)):
            for index, found in block:
                if isinstance(found, str):
                    scan.problems[index] = found
                else:
                    scan.note(index, found)
            done += len(block)
            if progress is not None:
                progress(done, len(scan.modes))
