"""The images that a training holds back to measure their loss: which they are, and the others."""

from __future__ import annotations

import hashlib

import numpy as np

from convflow.data.loader import Order, Rows
from convflow.seeds import VALIDATION_KEYS, long_sequence
from convflow.types import InputError


def hold_back(count: int, num: int, seed: int) -> np.ndarray:
    """Return the places of the images that are held back: (num,) int64, in rising order.

    Args:
        count: number of images.
        num: how many of them are held back; 0 for none.
        seed: chooses them.

    Raises:
        InputError: no image would be left to train on.

    Examples:
        >>> hold_back(10, 3, seed=0).tolist()
        [3, 6, 7]
    """
    if num >= max(count, 1):
        raise InputError(
            f"--monitor.validation: expected fewer images than the {count:,} there are, got "
            f"{num:,}; hold fewer back"
        )
    if not num:
        return np.empty(0, np.int64)
    words = np.random.PCG64(long_sequence(seed, *VALIDATION_KEYS)).random_raw(count)
    return np.sort(np.argsort(words, kind="stable")[:num])


class PartOrder(Order):
    """An order of some of the images, which says their places among all.

    In the place of an image that cannot be read stands the next of all, which may be one that is
    held back.

    Args:
        order: of as many images as there are places.
        places: (M,) int64 their places among all.
    """

    def __init__(self, order: Order, places: np.ndarray) -> None:
        super().__init__(order.count, order.seed, order.flip, order.crop)
        self.order, self.places = order, places

    @property
    def fingerprint(self) -> str:
        """Changes with the images that are held back."""
        return f"{self.order.fingerprint}-{hashlib.sha256(self.places.tobytes()).hexdigest()}"

    def largest(self, batch_size: int) -> int:
        """Return the most images in a batch."""
        return self.order.largest(batch_size)

    def rows(self, start: int, batch_size: int) -> Rows:
        """Return the batch that begins at position `start`, where an earlier one ended."""
        rows = self.order.rows(start, batch_size)
        return rows._replace(indices=self.places[rows.indices])
