"""Which pictures a run trains on, as they were when it began, whatever becomes of the files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convflow.data.pictures import Source
from convflow.storage import read_arrays, writing_file
from convflow.types import InputError


@dataclass
class Selection:
    """The pictures of a run: the usable ones of its first look.

    They keep their places in the order, and their buckets, when one of them turns out bad later.

    Args:
        indices: (N,) int64, sorted, of the source's pictures.
        sides: (N, 2) int64 their height and width in pixels.
    """

    indices: np.ndarray
    sides: np.ndarray

    def write(self, path: Path, source: Source) -> None:
        """Keep it in a file.

        Raises:
            InputError: The disk is full or not writable.
        """
        with writing_file(path) as draft, draft.open("wb") as file:
            items = np.array(_items(source))
            np.savez_compressed(file, indices=self.indices, sides=self.sides, items=items)

    @classmethod
    def read(cls, path: Path, source: Source) -> Selection | None:
        """Return what is kept; None where it is missing, damaged, or of other pictures."""
        try:
            found = read_arrays(path, ["indices", "sides", "items"])
            indices, sides, items = found["indices"], found["sides"], str(found["items"])
        except (InputError, KeyError):  # without it the pictures are chosen anew
            return None
        count = indices.size
        fits = (
            items == _items(source)
            and (indices.dtype, sides.dtype) == (np.int64, np.int64)
            and (indices.shape, sides.shape) == ((count,), (count, 2))
            and count > 0
            and (np.diff(indices, prepend=-1, append=len(source)) > 0).all()
            and (sides > 0).all()
        )
        return cls(indices, sides) if fits else None


def _items(source: Source) -> str:
    """Return the SHA-256 of the names of all pictures."""
    names = [source.item_name(index) for index in range(len(source))]
    return hashlib.sha256(repr(names).encode()).hexdigest()
