"""What a scan of every image saw, kept in a file, so that the next training begins at once."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from convflow.arrays import read_array_header
from convflow.data.files import one_large_at_a_time
from convflow.data.images import is_transparent, num_cores, to_uint8, used_bits
from convflow.data.source import Source, one_line
from convflow.storage import writing_file
from convflow.types import InputError, Size

_BLOCK = 64  # images per task: small images decode faster than a task is handed over
SCAN_FORMAT = 2


class Seen(NamedTuple):
    """What a usable image is like."""

    mode: str
    """Pillow mode or array type."""
    size: Size
    """Height and width in pixels."""
    bits: int
    """Of 16 how many its values use; 0 where they are not 16, or where the file says how many."""
    transparent: bool
    """Anywhere."""


class Scan:
    """What was seen of each image, or its problem.

    Attributes:
        sides: (N, 2) int64 height and width.
        modes: (N,) int16 place of the mode in `names`; -1 where nothing usable was seen.
        bits: (N,) uint8 as in `Seen`.
        transparent: (N,) bool.
        names: Of the modes.
        problems: Why images are bad, by index; not kept.
    """

    def __init__(self, total: int) -> None:
        self.sides = np.zeros((total, 2), np.int64)
        self.modes = np.full(total, -1, np.int16)
        self.bits = np.zeros(total, np.uint8)
        self.transparent = np.zeros(total, np.bool_)
        self.names: list[str] = []
        self.problems: dict[int, str] = {}

    def note(self, index: int, seen: Seen) -> None:
        """Keep what a usable image is like."""
        if seen.mode not in self.names:
            self.names.append(seen.mode)
        self.modes[index], self.sides[index] = self.names.index(seen.mode), seen.size
        self.bits[index], self.transparent[index] = seen.bits, seen.transparent

    @classmethod
    def read(cls, path: Path, total: int) -> Scan:
        """Return what is remembered; nothing where the file is missing or of no use."""
        scan = cls(total)
        try:
            with zipfile.ZipFile(path) as archive:
                found = {name: _array(archive, name, total) for name in (*_ARRAYS, "names")}
            names = json.loads(str(found.pop("names")))
        # A damaged file raises nearly anything; it was only there to save time.
        except Exception:
            return scan
        known = found["modes"] >= 0
        fits = [
            (array.shape, array.dtype) == (getattr(scan, name).shape, getattr(scan, name).dtype)
            for name, array in found.items()
        ]
        if (
            all(fits)
            and isinstance(names, list)
            and all(isinstance(name, str) for name in names)
            and found["modes"].max(initial=-1) < len(names)
            and (found["sides"][known] > 0).all()
        ):
            vars(scan).update(found, names=names)
        return scan

    def write(self, path: Path) -> None:
        """Remember it; a folder that cannot be written to is no reason to stop."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        with suppress(OSError, InputError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with writing_file(path) as draft, draft.open("wb") as file:
                np.savez_compressed(file, **arrays, names=np.array(json.dumps(self.names)))


_ARRAYS = ("sides", "modes", "bits", "transparent")


def scan_missing(
    source: Source,
    channels: int,
    scan: Scan,
    missing: np.ndarray,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Decode the images that are not known yet, on all cores, and note in `scan` what is seen."""

    def inspect(index: int) -> Seen | str:
        """What the image is like, or why it is bad."""
        try:
            with one_large_at_a_time():
                image = source.read(index)
                pixels = to_uint8(image, channels)
                mode = image.mode if isinstance(image, Image.Image) else str(image.dtype)
                size = (pixels.shape[0], pixels.shape[1])
                return Seen(mode, size, used_bits(image), is_transparent(image))
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


def _array(archive: zipfile.ZipFile, name: str, total: int) -> np.ndarray:
    """Return an array of an .npz, which is no longer than `total` images can make it."""
    limit = 16 * total + 2**20
    with archive.open(f"{name}.npy") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(name)
    read_array_header(BytesIO(data), len(data))
    return np.lib.format.read_array(BytesIO(data), allow_pickle=False)
