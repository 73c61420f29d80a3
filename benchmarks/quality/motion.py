"""What videos of `moving` show, seen in the pixels alone: one object, its path, and which it is.

The truth about a model of videos: each frame is parted into a smooth ground and what stands out
from it, as images are (`benchmarks.quality.objects`), and the centres of the object are followed.
The paths of `moving` are curves of degree 2 in time, so that a path is smooth where such a curve
fits it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from benchmarks.quality.objects import find_objects, recognize
from convflow.data.shapes import SHAPES
from convflow.types import InputError

ROUGHNESS = 0.01
"""Largest distance of the centres from the curve, root mean square, in shorter sides."""

WAY = 0.1
"""Least distance between the first centre and the last, in shorter sides."""

GROWTH = 0.25
"""Most that the area of the object may differ from its median, in shares of that."""

LARGEST = 0.3
"""Area above which what stands out is no object, in squares over the shorter side; a disc of
`moving` has 0.2 at most, and noise is a single large thing."""

EDGE = 0.5
"""Most of a pixel at the border that the object may cover."""

FEWEST_FRAMES = 4
"""A curve of degree 2 fits any three frames."""


class Motions(NamedTuple):
    """What the frames of each video show.

    Args:
        one: (B,) whether there is exactly one object in every frame, and no huge one.
        inside: (B,) whether it is the one object of every frame, and never at the border.
        smooth: (B,) whether it is that, keeps its area, and goes along a smooth path.
        labels: (B,) the class that most frames show, -1 for none.
        roughness: (B,) distance of the centres from the best curve of degree 2 in time, root mean
            square, in shorter sides; infinite without one object in every frame.
    """

    one: Bool[Tensor, " B"]
    inside: Bool[Tensor, " B"]
    smooth: Bool[Tensor, " B"]
    labels: Int[Tensor, " B"]
    roughness: Float[Tensor, " B"]


class MotionScores(NamedTuple):
    """What a set of videos is worth.

    Args:
        num: Videos looked at.
        frames: Share of all frames with exactly one object.
        one: Share of videos with exactly one object in every frame.
        smooth: Share whose object goes along a smooth path inside the frame.
        right: Share of which that is so and the object is of the class asked for.
        roughness: Median distance from a smooth path, in shorter sides, of videos with one object.
    """

    num: int
    frames: float
    one: float
    smooth: float
    right: float
    roughness: float


def score_motions(videos: UInt8[Tensor, "B 3 F H W"], labels: Int[Tensor, " B"]) -> MotionScores:
    """Return how many videos show exactly one object on a smooth path, and the one asked for.

    Args:
        videos: meant to be of `moving`, of at least 4 frames of at least 16x16.
        labels: class ids asked for, in [0, 6).

    Raises:
        InputError: no videos, too few frames, or labels that do not fit them.

    Example:
        >>> from convflow.data.moving import DrawnMotions
        >>> drawn = [DrawnMotions("test").draw(i, (8, 32, 32)) for i in range(6)]
        >>> videos = torch.stack([torch.from_numpy(video).movedim(-1, 0) for video in drawn])
        >>> score_motions(videos, torch.arange(6))[:5]
        (6, 1.0, 1.0, 1.0, 1.0)
    """
    num = len(videos)
    if num == 0 or len(labels) != num or labels.min() < 0 or labels.max() >= len(SHAPES):
        raise InputError(
            f"expected videos and a label in 0..{len(SHAPES) - 1} for each, got {num} videos and "
            f"the labels {sorted(set(labels.tolist()))}; give those that were asked for"
        )
    counts, found = look(videos)
    known = found.roughness[found.one]
    return MotionScores(
        num,
        frames=(counts == 1).double().mean().item(),
        one=found.one.double().mean().item(),
        smooth=found.smooth.double().mean().item(),
        right=(found.smooth & (found.labels == labels.cpu())).double().mean().item(),
        roughness=known.median().item() if len(known) else float("inf"),
    )


def look(videos: UInt8[Tensor, "B 3 F H W"]) -> tuple[Int[Tensor, "B F"], Motions]:
    """Return the number of objects in each frame, and what the frames of each video show.

    Raises:
        InputError: too few frames.
    """
    count, _, frames, height, width = videos.shape
    if frames < FEWEST_FRAMES:
        raise InputError(f"expected at least {FEWEST_FRAMES} frames, got {frames}; sample more")
    objects = find_objects(videos.transpose(1, 2).flatten(0, 1))
    counts = objects.counts.view(count, frames)
    covers = objects.covers.double().view(count, frames, height, width)
    area = covers.sum((2, 3))
    edge = (
        torch.stack([covers[..., 0, :], covers[..., -1, :]], -1)
        .amax((2, 3))
        .maximum(torch.stack([covers[..., 0], covers[..., -1]], -1).amax((2, 3)))
    )
    side = min(height, width)
    one = ((counts == 1) & (area <= LARGEST * side**2)).all(1)
    inside = one & (edge <= EDGE).all(1)
    median = area.median(1, keepdim=True).values
    steady = ((area - median).abs() <= GROWTH * median).all(1)
    centres = _centres(covers, area) / side
    roughness = torch.where(one, _roughness(centres), torch.inf)
    moved = (centres[:, -1] - centres[:, 0]).norm(dim=1) >= WAY
    seen = recognize(objects.covers).view(count, frames)
    votes = torch.stack([(seen == label).sum(1) for label in range(len(SHAPES))], 1)
    labels = torch.where(votes.amax(1) * 2 > frames, votes.argmax(1), -1)
    smooth = inside & steady & moved & (roughness <= ROUGHNESS)
    return counts, Motions(one, inside, smooth, labels, roughness)


def _centres(covers: Float[Tensor, "B F H W"], area: Float[Tensor, "B F"]) -> Tensor:
    """Return the centre of what is covered in each frame, (B, F, 2) as row and column."""
    rows, columns = (torch.arange(side, dtype=covers.dtype) for side in covers.shape[2:])
    covered = area.clamp_min(1e-9)
    row, column = covers.sum(3) @ rows / covered, covers.sum(2) @ columns / covered
    return torch.stack([row, column], -1)


def _roughness(centres: Float[Tensor, "B F 2"]) -> Float[Tensor, " B"]:
    """Return the root mean square distance of centres from their best curve of degree 2."""
    time = torch.linspace(-1, 1, centres.shape[1], dtype=centres.dtype)
    basis, _ = torch.linalg.qr(torch.stack([time**power for power in range(3)], 1))
    rest = centres - basis @ (basis.T @ centres)
    return rest.square().sum(-1).mean(1).sqrt()
