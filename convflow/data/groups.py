"""An order for images that are stored in groups, of which each is read once in an epoch."""

from __future__ import annotations

import numpy as np

from convflow.data.loader import GROUPS_KEY, Order
from convflow.data.source import Groups
from convflow.types import InputError


class GroupOrder(Order):
    """An order in which images of one group are seen near each other; else like `Order`.

    The groups have a fresh order in every epoch. As many of them as fit the memory make a window,
    and the images of a window are shuffled. Where all groups fit, this is the order of `Order`.

    Args:
        groups: where the images are; N of them, at least 1.
        seed: any integer >= 0.
        flip: mirror a random half.
        crop: cut images at random places instead of from the middle.
    """

    def __init__(self, groups: Groups, seed: int, flip: bool, crop: bool = False) -> None:
        super().__init__(len(groups.numbers), seed, flip, crop)
        found, self.groups = np.unique(groups.numbers, return_inverse=True)
        self.num_groups, self.window = len(found), max(groups.window, 1)

    @property
    def fingerprint(self) -> str:
        """Changes with the size of a window, where there are several."""
        return f"-{self.window} groups" if self.window < self.num_groups else ""

    def describe(self) -> str:
        """Return how far apart images of a group may be seen, in a line."""
        if self.window >= self.num_groups:
            return "all row groups fit into memory: the images are shuffled as one"
        count = round(self.count * self.window / self.num_groups)
        return (
            f"shuffled in windows of {self.window:,} of {self.num_groups:,} row groups, about "
            f"{count:,} images"
        )

    def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Images in order, and which of them are mirrored."""
        order, mirrored = super()._draw(epoch)
        turn = np.argsort(self._words(epoch, GROUPS_KEY)[: self.num_groups], kind="stable")
        places = np.empty(self.num_groups, np.int64)
        places[turn] = np.arange(self.num_groups)
        windows = places[self.groups[order]] // self.window
        return order[np.argsort(windows, kind="stable")], mirrored


def groups_of(source: object, indices: np.ndarray, name: str) -> Groups:
    """Return the groups of some images of a source.

    Raises:
        InputError: a source whose images are read one by one.
    """
    found: Groups | None = getattr(source, "groups", None)
    if found is None:
        raise InputError(
            f"--data.shuffle: expected images with {name}, whose images are read one by one, got "
            "groups; leave it out"
        )
    return found._replace(numbers=found.numbers[indices])
