"""The training images nearest to samples, and whether a model copies them.

Distances of samples to the training set are held against those of real images that were not shown:
Meehan et al. 2020 (arXiv 2004.05675), whose test is that of Mann and Whitney. A sample near one
training image alone: Yoon et al. 2023, whose ratio of 1/3 Gu et al. 2023 (arXiv 2310.02664) use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from convflow.types import InputError, Progress

NEAR = 1 / 3
"""A near copy is nearer to its training image than this share of another distance, see `judge`."""

MOST_BYTES = 2**28
"""What the features of all samples, or of all references, may take."""

PART_BYTES = 2**26
"""What the pixels of a part of the training images may take, as float32."""

SAME = 1e-3
"""What is nearer than this share of the largest distance of references is the same image."""

CERTAIN = 3.0
"""Standard errors from which on a difference is called one."""

Read = Callable[[Sequence[int]], UInt8[Tensor, "B C H W"]]
"""From numbers of images to the images, on the CPU."""


@dataclass(frozen=True)
class Distance:
    """A way to measure how far apart two images are: the norm of a difference of features.

    Attributes:
        name: such as "pixels".
        unit: in words.
        features: from uint8 images to float32 rows.
    """

    name: str
    unit: str
    features: Callable[[UInt8[Tensor, "B C H W"]], Float[Tensor, "B F"]]


def pixel_features(images: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
    """Return levels as rows whose distances are root mean squares of differences in levels."""
    rows = images.flatten(1).float() - 127.5
    return rows / rows.shape[1] ** 0.5


class Nearest(NamedTuple):
    """The nearest training images of each of Q images, the nearest first.

    Attributes:
        distances: to them; infinity where there are no more.
        places: their numbers.
        mirrored: whether their mirror image is meant.
    """

    distances: Float[Tensor, "_ K"]
    places: Int[Tensor, "_ K"]
    mirrored: Bool[Tensor, "_ K"]


def find_nearest(
    queries: Sequence[tuple[UInt8[Tensor, "_ C H W"], np.ndarray | None]],
    training: np.ndarray,
    read: Read,
    distances: Sequence[Distance],
    *,
    keep: int = 3,
    progress: Progress = lambda count: None,
) -> list[list[Nearest]]:
    """Return the nearest training images of several sets of images, by several distances.

    The training images are read once, a part at a time, and each of them is held against all
    images as it is and mirrored. Memory does not grow with their number.

    Args:
        queries: sets of images; beside each the numbers of the images in `training` that are left
            out, one for each image, for images that are training images themselves; else None.
        training: (N,) numbers of the training images.
        read: reads them.
        distances: how they are measured.
        keep: how many are kept, at least 2.
        progress: told of every training image.

    Returns:
        For each distance the nearest of each set.

    Raises:
        InputError: so many images that their features would not fit into `MOST_BYTES`.
    """
    asked = [[_rows(distance, images) for images, _ in queries] for distance in distances]
    found = [[_nothing(len(rows), max(keep, 2)) for rows in sets] for sets in asked]
    pixels = math.prod(queries[0][0].shape[1:])
    size = max(1, min(256, PART_BYTES // (4 * pixels)))
    for start in range(0, len(training), size):
        places = training[start : start + size]
        images = read(places.tolist())
        for distance, sets, best in zip(distances, asked, found, strict=True):
            both = [distance.features(some).double() for some in (images, images.flip(3))]
            for number, rows in enumerate(sets):
                out = queries[number][1]
                apart = torch.stack([torch.cdist(rows, other) for other in both])
                apart, mirrored = apart.min(0)
                if out is not None:
                    apart[torch.from_numpy(out[:, None] == places)] = math.inf
                best[number] = _merge(best[number], apart, mirrored.bool(), places)
        progress(len(places))
    return found


def most_images(width: int) -> int:
    """Return how many images with so many features may be held against training images at once."""
    return max(1, MOST_BYTES // (8 * width))


def _rows(distance: Distance, images: Tensor) -> Tensor:
    """Return the features of images, if they fit into memory."""
    size = max(1, PART_BYTES // (4 * math.prod(images.shape[1:])))
    first = distance.features(images[:size])
    most = most_images(first.shape[1])
    if len(images) > most:
        raise InputError(
            f"--num: expected at most {most:,} samples of {images.shape[2]}x{images.shape[3]}, got "
            f"{len(images):,}; take fewer, or a smaller --size"
        )
    rest = (distance.features(some) for some in images[size:].split(size) if len(some))
    return torch.cat([first, *rest]).double()  # for small differences of large numbers


def _nothing(count: int, keep: int) -> Nearest:
    empty = torch.zeros(count, keep, dtype=torch.float64)
    return Nearest(empty + math.inf, empty.long() - 1, empty.bool())


def _merge(best: Nearest, apart: Tensor, mirrored: Tensor, places: np.ndarray) -> Nearest:
    """Return the nearest of those that were found before and some more."""
    numbers = torch.from_numpy(np.asarray(places)).expand(len(apart), -1)
    found = [torch.cat(pair, 1) for pair in zip(best, (apart, numbers, mirrored), strict=True)]
    values, order = found[0].topk(best.distances.shape[1], largest=False)
    return Nearest(values, *(part.gather(1, order) for part in found[1:]))


class Verdict(NamedTuple):
    """Whether samples are copies of training images, by one distance.

    Attributes:
        copies, copies_expected: share of near copies among samples and among references.
        num_copies: their number among samples.
        closer: probability that a sample is nearer to the training images than a reference; 0.5
            where samples are like real images that were not shown.
        error: standard error of `closer` where samples are like references.
        median, median_expected: distances of samples and references to the nearest.
        word: "copies", "near" (nearer than references are) or "none".
    """

    copies: float
    copies_expected: float
    num_copies: int
    closer: float
    error: float
    median: float
    median_expected: float
    word: str


def judge(samples: Nearest, references: Nearest) -> Verdict:
    """Return whether samples are nearer to the training images than references are.

    A near copy is an image that is nearer to a training image than a third of the distance to the
    second nearest, or than a third of the median distance of references. The model copies if
    samples have more near copies than the references let one expect: if as many would be there by
    chance in less than one of a hundred cases.

    Args:
        samples: of the model.
        references: of real images that the model was not shown, or of training images to others.
    """
    ours, theirs = _without_rounding(samples, references)
    typical = float(theirs[:, 0].median())
    near, expected = (_near_copies(apart, typical) for apart in (ours, theirs))
    first, second = ours[:, 0], theirs[:, 0]
    less = (first[:, None] < second).double() + 0.5 * (first[:, None] == second)
    closer, n, m = float(less.mean()), len(first), len(second)
    error = math.sqrt((n + m + 1) / (12 * n * m))
    rate = (int(expected.sum()) + 1) / (m + 2)
    count = int(near.sum())
    word = "none"
    if count and _at_least(count, n, rate) < 0.01:
        word = "copies"
    elif closer - 0.5 > CERTAIN * error:
        word = "near"
    return Verdict(
        count / n,
        float(expected.double().mean()),
        count,
        closer,
        error,
        float(first.median()),
        typical,
        word,
    )


def near_copies(samples: Nearest, references: Nearest) -> list[bool]:
    """Return which samples are near copies, see `judge`."""
    ours, theirs = _without_rounding(samples, references)
    return _near_copies(ours, float(theirs[:, 0].median())).tolist()


def _without_rounding(samples: Nearest, references: Nearest) -> list[Tensor]:
    """Return the distances of both, zero where images are the same."""
    both = [found.distances.double() for found in (samples, references)]
    least = SAME * both[1][both[1].isfinite()].max()
    return [torch.where(apart < least, 0.0, apart) for apart in both]


def _near_copies(apart: Tensor, typical: float) -> Tensor:
    alone = (apart[:, 0] < NEAR * apart[:, 1]) & apart[:, 1].isfinite()
    return (apart[:, 0] == 0) | alone | (apart[:, 0] < NEAR * typical)


def _at_least(count: int, tries: int, rate: float) -> float:
    """Return the probability of at least `count` hits in some tries (binomial)."""
    terms: Iterable[float] = (
        math.exp(
            math.lgamma(tries + 1)
            - math.lgamma(k + 1)
            - math.lgamma(tries - k + 1)
            + k * math.log(rate)
            + (tries - k) * math.log1p(-rate)
        )
        for k in range(count, tries + 1)
    )
    return math.fsum(terms)
