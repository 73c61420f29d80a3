"""Which images a run trains on, as they were when it began, whatever becomes of the files."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convflow.arrays import read_arrays
from convflow.data.source import Source
from convflow.storage import writing_file
from convflow.types import InputError

ERRORS = "surrogatepass"
"""How names that are no text are encoded in UTF-8; names of files may be none."""

NAMED_IMAGES = 3
"""Images that a message names."""


@dataclass
class Selection:
    """The images of a run: the usable ones of its first scan.

    They keep their places in the order, and their buckets, when one of them turns out bad later.

    Args:
        indices: (N,) int64, sorted, of the source's images.
        sides: (N, 2) int64 their height and width in pixels; 0 where nobody looked.
    """

    indices: np.ndarray
    sides: np.ndarray

    def write(self, path: Path, source: Source) -> None:
        """Keep it in a file.

        Raises:
            InputError: The disk is full or not writable.
        """
        names = _names(source)
        joined = np.frombuffer("\0".join(names).encode("utf-8", ERRORS), np.uint8)
        arrays = {"indices": self.indices, "sides": self.sides, "names": joined}
        arrays["items"] = np.array(_items(names))
        with (
            writing_file(path) as draft,
            zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        ):
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)

    @classmethod
    def read(cls, path: Path, source: Source) -> Selection | None:
        """Return what is kept; None where it is missing, damaged, or of other images."""
        try:
            found = read_arrays(path, ["indices", "sides", "items"])
            indices, sides, items = found["indices"], found["sides"], str(found["items"])
        except (InputError, KeyError):  # without it the images are chosen anew
            return None
        count = indices.size
        fits = (
            items == _items(_names(source))
            and (indices.dtype, sides.dtype) == (np.int64, np.int64)
            and (indices.shape, sides.shape) == ((count,), (count, 2))
            and count > 0
            and (np.diff(indices, prepend=-1, append=len(source)) > 0).all()
            and ((sides > 0).all(1) | (sides == 0).all(1)).all()
        )
        return cls(indices, sides) if fits else None


def describe_others(path: Path, source: Source) -> str:
    """Return which images are new and which are gone since a selection was kept, with some names.

    Empty where the names are the same, and where the file is missing, damaged or an earlier one.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            before = file["names"].tobytes().decode("utf-8", ERRORS).split("\0")
    except Exception:  # as in `Selection.read`
        return ""
    now = _names(source)
    others = {"new": {*now} - {*before}, "gone": {*before} - {*now}}
    return "; ".join(f"{word}: {_some(sorted(names))}" for word, names in others.items() if names)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED_IMAGES:,} more" if len(names) > NAMED_IMAGES else ""
    return ", ".join(names[:NAMED_IMAGES]) + more


def _names(source: Source) -> list[str]:
    return [source.item_name(index) for index in range(len(source))]


def _items(names: list[str]) -> str:
    """Return the SHA-256 of the names of all images."""
    return hashlib.sha256(repr(names).encode()).hexdigest()
