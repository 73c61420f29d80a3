"""Sizes to train at: buckets of one pixel budget, which image goes where, and in what order.

Buckets of aspect ratios follow Wang et al. (2024), FlowDCN, arXiv 2410.22655, section 4 and code,
but for this: ratios are spaced, and the nearest is found, by factors, not by differences, so that
tall and wide images fare alike.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from convflow.data.loader import Order, Rows, uniform
from convflow.types import InputError, Size, size_text


def bucket_sizes(budget: int, ratios: Sequence[float], multiple: int) -> tuple[Size, ...]:
    """Return a size for each ratio, of at most `budget` pixels, narrow ones first.

    height = floor(sqrt(budget / ratio) / multiple) * multiple, width likewise from
    sqrt(budget * ratio); sizes that come out twice are there once.

    Args:
        budget: pixels H W of the largest size.
        ratios: width / height.
        multiple: of both sides, in pixels.

    Raises:
        InputError: no ratios, one of them not above 0, or a side shorter than `multiple`.

    Examples:
        >>> bucket_sizes(32 * 32, even_ratios(0.5, 2, 3), 4)
        ((44, 20), (32, 32), (20, 44))
    """
    if not ratios or not all(0 < ratio < math.inf for ratio in ratios):
        raise InputError(f"expected ratios of width to height above 0, got {[*ratios]}; try 0.5, 2")
    sizes = []
    for ratio in sorted(ratios):
        # Rounding errors must not cost a whole cell: 32.0 may come out as 31.999.
        sides = (math.sqrt(budget / ratio), math.sqrt(budget * ratio))
        height, width = (math.floor(side / multiple + 1e-9) * multiple for side in sides)
        if min(height, width) < multiple:
            raise InputError(
                f"expected sides of at least {multiple} pixels, got {height}x{width} for the ratio "
                f"{ratio:.3g}; take a ratio nearer to 1 or a larger size"
            )
        sizes.append((height, width))
    return tuple(dict.fromkeys(sizes))


def even_ratios(low: float, high: float, count: int) -> list[float]:
    """Return `count` ratios from `low` to `high`, each the same factor above the last.

    Raises:
        InputError: the numbers are not in order above 0, or fewer than two buckets between two.
    """
    if not 0 < low <= high < math.inf or count < 1 or (count == 1 and low != high):
        raise InputError(
            f"expected ratios 0 < low <= high and at least 2 buckets between them, got {low:g}, "
            f"{high:g} and {count}; try 0.5,2 and 5"
        )
    return [low * (high / low) ** (i / max(count - 1, 1)) for i in range(count)]


def batch_size_of(size: Size, batch_size: int, budget: int) -> int:
    """Return how many images of a size have as many pixels as `batch_size` of `budget` pixels."""
    return max(1, round(batch_size * budget / math.prod(size)))


class Buckets:
    """Which sizes each image may be trained at.

    An image goes to the sizes whose ratio is nearest to its own; where several are, one of them
    is drawn anew in every epoch. Images that are drawn at any size may go everywhere.

    Args:
        sizes: height and width of every bucket in pixels, of videos frames before them.
        sides: (N, 2) height and width of the images; None where they have no size of their own.
        count: number N of images.

    Attributes:
        groups: (N,) which of `members` each image belongs to.
        members: bucket numbers of one ratio, group by group.
        kept: (N,) the share of its area that an image keeps when it is resized and cut.
        enlarged: (N,) bool, whether an image is smaller than the largest size it may come to.
    """

    def __init__(self, sizes: Sequence[Size], sides: np.ndarray | None, count: int) -> None:
        self.sizes = tuple(dict.fromkeys(sizes))
        ratios = np.array([math.log(size[-1] / size[-2]) for size in self.sizes])
        if sides is None:
            self.members = [np.arange(len(self.sizes))]
            self.groups, self.kept = np.zeros(count, np.int64), np.ones(count)
            self.enlarged = np.zeros(count, bool)
            return
        found, group = np.unique(ratios.round(9), return_inverse=True)
        self.members = [np.flatnonzero(group == g) for g in range(len(found))]
        own = np.log(sides[:, 1] / sides[:, 0])
        self.groups = np.abs(own[:, None] - found).argmin(1)
        self.kept = np.exp(-np.abs(own - found[self.groups]))
        largest = np.array([np.array(self.sizes)[members].max(0)[-2:] for members in self.members])
        self.enlarged = np.any(sides < largest[self.groups], axis=1)

    def describe(self) -> list[str]:
        """Return what becomes of the images, in a line or two."""
        lines = []
        if len(self.sizes) > 1:
            counts = np.bincount(self.groups, minlength=len(self.members))
            shares = [
                f"{'/'.join(size_text(self.sizes[i]) for i in members)} {count:,}"
                for members, count in zip(self.members, counts, strict=True)
            ]
            lines.append(f"sizes and their images: {', '.join(shares)}")
        if self.kept.min() < 0.995:
            lines.append(
                f"cut to size they keep {self.kept.mean():.0%} of their area, "
                f"{self.kept.min():.0%} at least"
            )
        return lines


class BucketOrder(Order):
    """An order whose batches hold one size each; still a function of seed and images seen alone.

    Every epoch shows every image once, in batches of no more than `batch_size_of` images. A
    bucket's images are cut into batches as even as can be, and the batches of all buckets are
    shuffled; one with few images makes a small batch. The loss of a batch is to be divided by
    its `full`, not by its own length: then a pixel of a rare ratio weighs what all others weigh.

    Args:
        buckets: where the images go.
        budget: pixels of the plain size, of which a batch holds as many as it is told.
        seed: any integer >= 0.
        flip: mirror a random half.
        crop: cut images at random places instead of from the middle.
    """

    def __init__(self, buckets: Buckets, budget: int, seed: int, flip: bool, crop: bool) -> None:
        super().__init__(len(buckets.groups), seed, flip, crop)
        self.buckets, self.budget = buckets, budget
        self._plan = lru_cache(maxsize=2)(self._cut)

    @property
    def fingerprint(self) -> str:
        """Changes when an image goes to another bucket."""
        return f"-{hashlib.sha256(self.buckets.groups.tobytes()).hexdigest()}"

    def largest(self, batch_size: int) -> int:
        """Return a bound on the images of a batch."""
        return max(batch_size_of(size, batch_size, self.budget) for size in self.buckets.sizes)

    def rows(self, start: int, batch_size: int) -> Rows:
        """Return the batch that begins at position `start`, where an earlier one ended."""
        epoch, place = divmod(start, self.count)
        bounds, numbers, positions = self._plan(epoch, batch_size)
        batch = int(np.searchsorted(bounds, place, side="right")) - 1
        here = positions[place : bounds[batch + 1]]
        order, mirrored = self._epoch(epoch)
        crops = self._places(epoch)[here] if self.crop else None
        size = self.buckets.sizes[numbers[batch]]
        full = batch_size_of(size, batch_size, self.budget)
        return Rows(order[here], mirrored[here], crops, size, full)

    def _cut(self, epoch: int, batch_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return where batches begin and end, the bucket of each, and places in the order."""
        order, _ = self._epoch(epoch)
        groups, draw = self.buckets.groups[order], uniform(self._words(epoch, 4))
        chosen = np.empty(self.count, np.int64)
        for group, members in enumerate(self.buckets.members):
            mine = groups == group
            chosen[mine] = members[(draw[mine] * len(members)).astype(np.int64)]
        parts: list[np.ndarray] = []
        numbers: list[int] = []
        for number, size in enumerate(self.buckets.sizes):
            places = np.flatnonzero(chosen == number)
            if len(places):
                count = math.ceil(len(places) / batch_size_of(size, batch_size, self.budget))
                parts += np.array_split(places, count)
                numbers += [number] * count
        turn = np.argsort(self._words(epoch, 5)[: len(parts)], kind="stable")
        parts = [parts[i] for i in turn]
        bounds = np.cumsum([0, *map(len, parts)])
        return bounds, np.array(numbers)[turn], np.concatenate(parts)
