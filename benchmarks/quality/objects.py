"""What images of `shapes` show, seen in the pixels alone: how many objects, and which.

This is the truth about samples at sizes nobody trained on, where a network likes to repeat the
object. An image is parted into a smooth ground and what stands out from it; connected parts are
counted; a single one is laid over the six outlines at its own area, centre and angle.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from convflow.data.shapes import SHAPES, coverage
from convflow.types import InputError

SPECK = 0.01
"""Area below which a part is no object, in squares over the shorter side."""

CONTRAST = 32.0
"""Least distance of an object from the ground, in levels of RGB."""

STANDS_OUT = 0.4
"""Of the strongest contrast of an image: where its objects begin."""

MISFIT = 0.15
"""Largest squared difference from an outline, in shares of the object's area."""

_GROUND_LEVELS = 56.0  # what is that near to the ground belongs to it
_CHUNK = 2**17  # pixels at once: their arrays stay in the cache


class Objects(NamedTuple):
    """What stands out from the ground of each image.

    Args:
        counts: (B,) connected objects, 0 or more.
        covers: (B, H, W) share in [0, 1] of each pixel that the object covers where there is
            exactly one; 0 elsewhere.
    """

    counts: Int[Tensor, " B"]
    covers: Float[Tensor, "B H W"]


class ObjectScores(NamedTuple):
    """What a set of images is worth.

    Args:
        num: Images looked at.
        one: Share with exactly one object.
        right: Share with exactly one object, of the class asked for.
        mean_count: Objects an image, 1 at best.
    """

    num: int
    one: float
    right: float
    mean_count: float


def score_objects(pixels: UInt8[Tensor, "B 3 H W"], labels: Int[Tensor, " B"]) -> ObjectScores:
    """Return how many images show exactly one object, and the one that was asked for.

    Args:
        pixels: images meant to be of `shapes`, of any size from 16x16 on.
        labels: class ids asked for, in [0, 6).

    Raises:
        InputError: no images, or labels that do not fit them.

    Example:
        >>> from convflow.evaluation.image_sets import open_image_set
        >>> pixels = open_image_set("shapes", size=(48, 32)).read(range(12))
        >>> score_objects(pixels, torch.arange(12) % 6)
        ObjectScores(num=12, one=1.0, right=1.0, mean_count=1.0)
    """
    num = len(pixels)
    if num == 0 or len(labels) != num or labels.min() < 0 or labels.max() >= len(SHAPES):
        raise InputError(
            f"expected images and a label in 0..{len(SHAPES) - 1} for each, got {num} images "
            f"and the labels {sorted(set(labels.tolist()))}; give those that were asked for"
        )
    counts, covers = find_objects(pixels)
    right = recognize(covers) == labels.cpu()
    return ObjectScores(
        num,
        one=(counts == 1).double().mean().item(),
        right=right.double().mean().item(),
        mean_count=counts.double().mean().item(),
    )


def find_objects(pixels: UInt8[Tensor, "B 3 H W"]) -> Objects:
    """Return the number of connected objects, and the outline of a single one.

    The ground is a polynomial of degree 2 in both directions, fitted to all that is near it,
    begun with the border's median colour. Pixels touch along edges and corners. Parts of less
    than 1 % of a square over the shorter side (a fifth of the least object of `shapes`) are
    specks.

    Args:
        pixels: images of one size, from 16x16 on.

    Returns:
        Counts and covers, on the CPU.

    Raises:
        InputError: the images are smaller.
    """
    height, width = pixels.shape[2:]
    if min(height, width) < 16:
        raise InputError(f"expected images of at least 16x16, got {height}x{width}; sample more")
    found = [_find(part) for part in _chunks(pixels.cpu().numpy())]
    counts, covers = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Objects(torch.from_numpy(counts), torch.from_numpy(covers))


def recognize(covers: Float[Tensor, "B H W"]) -> Int[Tensor, " B"]:
    """Return the class of each object by its outline alone; -1 for none of them.

    Each outline is drawn with the object's area around its centre, turned to the phase of its
    n-th moment, n the number of tips; the one that differs least is the class. Where even that
    differs by more than 15 % of the area, or nothing is covered, there is none.

    Args:
        covers: shares in [0, 1] of each pixel that the object covers.

    Returns:
        Class ids in [-1, 6), on the CPU.
    """
    misfits = np.concatenate([misfit(part) for part in _chunks(covers.cpu().numpy())])
    labels = np.where(misfits.min(axis=1) <= MISFIT, misfits.argmin(axis=1), -1)
    return torch.from_numpy(labels)


def misfit(cover: np.ndarray) -> np.ndarray:
    """Squared difference from each outline at its best, in shares of the object's area.

    Args:
        cover: (B, H, W) shares in [0, 1].

    Returns:
        (B, 6), infinite where nothing is covered.
    """
    area = cover.sum(axis=(1, 2))
    covered = np.maximum(area, 1e-9)[:, None, None]
    rows, columns = (np.arange(side, dtype=cover.dtype) for side in cover.shape[1:])
    rows = rows[:, None]
    y = rows - (cover * rows).sum(axis=(1, 2), keepdims=True) / covered
    x = columns - (cover * columns).sum(axis=(1, 2), keepdims=True) / covered
    distance, angle = np.hypot(x, y), np.arctan2(y, x)
    weighed = cover * distance**2
    found = np.empty((len(cover), len(SHAPES)))
    for label, shape in enumerate(SHAPES):
        tip = np.zeros_like(covered)
        if shape.folds:
            turned = shape.folds * angle
            moment = [(weighed * f(turned)).sum(axis=(1, 2)) for f in (np.sin, np.cos)]
            tip = (np.arctan2(*moment) / shape.folds)[:, None, None]
        ideal = coverage(label, distance, angle - tip, np.sqrt(covered / shape.area))
        found[:, label] = ((cover - ideal) ** 2 / covered).sum(axis=(1, 2))
    return np.where(area[:, None] > 0, found, np.inf)


def _find(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts (B,) and covers (B, H, W) of images (B, 3, H, W)."""
    levels = pixels.astype(np.float32)
    height, width = levels.shape[2:]
    above = levels - _ground(levels)
    distance = np.sqrt((above**2).sum(axis=1))
    # A mean over 3x3 pixels, so that a single noisy one is no measure.
    strongest = (_around(np.add, distance) / 9).max(axis=(1, 2), keepdims=True)
    parts = _connect(distance > np.maximum(STANDS_OUT * strongest, CONTRAST))
    areas = np.bincount(parts.ravel(), minlength=parts.size + 1)
    large = areas >= max(SPECK * min(height, width) ** 2, 1)
    large[0] = False
    own = np.arange(1, parts.size + 1).reshape(parts.shape)
    count = (large[parts] & (parts == own)).sum(axis=(1, 2))
    single = large[parts] & (count == 1)[:, None, None]
    return count, _cover(above, single)


def _ground(levels: np.ndarray) -> np.ndarray:
    """A smooth ground (B, 3, H, W) below whatever stands out."""
    batch, _, height, width = levels.shape
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in (height, width))
    basis = np.stack([y[:, None] ** i * x**j for i in range(3) for j in range(3 - i)])
    step = max(min(height, width) // 32, 1)  # a smooth ground is known by some of its pixels
    some = basis[:, ::step, ::step].reshape(len(basis), -1)
    products = (some[:, None] * some).reshape(len(basis) ** 2, -1)
    edges = [levels[:, :, 0], levels[:, :, -1], levels[:, :, :, 0], levels[:, :, :, -1]]
    start = np.median(np.concatenate(edges, axis=2), axis=2)[:, :, None]
    seen = levels[:, :, ::step, ::step].reshape(batch, 3, some.shape[1]) - start
    weights = np.zeros((batch, 3, len(basis)), np.float32)
    for _ in range(4):
        distance = ((seen - weights @ some) ** 2).sum(axis=1)
        near = (distance < _GROUND_LEVELS**2).astype(np.float32)
        normal = (near @ products.T).reshape(batch, len(basis), len(basis))
        normal += 1e-3 * some.shape[1] * np.eye(len(basis))  # for a ground that is hardly seen
        sums = (near[:, None] * seen) @ some.T
        weights = np.linalg.solve(normal, sums.swapaxes(1, 2)).swapaxes(1, 2).astype(np.float32)
    return (weights @ basis.reshape(len(basis), height * width) + start).reshape(levels.shape)


def _connect(mask: np.ndarray) -> np.ndarray:
    """Number each connected part of (B, H, W) by 1 + the index of its last pixel; 0 outside.

    Numbers spread to neighbours, then jump to the number of the pixel that they name: a part
    whose numbers agree along a path of length n needs about log n rounds.
    """
    parts = np.where(mask, np.arange(1, mask.size + 1, dtype=np.int32).reshape(mask.shape), 0)
    while True:
        spread = np.where(mask, _around(np.maximum, parts), 0)
        jumped = np.append(np.int32(0), spread)[spread]
        if np.array_equal(jumped, parts):
            return parts
        parts = jumped


def _cover(above: np.ndarray, single: np.ndarray) -> np.ndarray:
    """Share of each pixel (B, H, W) that the object marked by `single` covers.

    Args:
        above: (B, 3, H, W) difference from the ground in levels.
        single: (B, H, W) bool, pixels of the object.
    """
    inner = _around(np.logical_and, single)  # all neighbours belong to it
    inner = np.where(inner.any(axis=(1, 2), keepdims=True), inner, single)
    size = np.maximum(inner.sum(axis=(1, 2), dtype=np.float32), 1)[:, None, None, None]
    colour = (above * inner[:, None]).sum(axis=(2, 3), keepdims=True) / size
    share = (above * colour).sum(axis=1) / np.maximum((colour**2).sum(axis=1), 1e-9)
    return np.where(_around(np.logical_or, single), share.clip(0, 1), 0)


def _around(combine: np.ufunc, values: np.ndarray) -> np.ndarray:
    """Each pixel of (B, H, W) combined with its neighbours; beyond the border is the border."""
    wide = np.pad(values, ((0, 0), (1, 1), (0, 0)), "edge")
    tall = combine(combine(wide[:, :-2], wide[:, 2:]), values)
    wide = np.pad(tall, ((0, 0), (0, 0), (1, 1)), "edge")
    return combine(combine(wide[:, :, :-2], wide[:, :, 2:]), tall)


def _chunks(images: np.ndarray) -> list[np.ndarray]:
    """A batch in parts that are worked on one after the other."""
    pixels = len(images) * images.shape[-2] * images.shape[-1]
    return np.array_split(images, max(math.ceil(pixels / _CHUNK), 1))
