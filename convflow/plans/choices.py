"""What to train in a given time: a pure function of the pictures, the speed and the time.

The length is a number of images, for a training is a function of the images seen. The network is
the largest that sees enough images in the time; a larger one would end before it has learned, a
smaller one would have nothing left to learn with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from convflow.plans.facts import Facts
from convflow.training.repeats import MOST_PASSES, MOST_PASSES_AUGMENTED
from convflow.types import Size

RUNGS = ((64, 4), (96, 5), (128, 6), (160, 7), (192, 8), (256, 10), (320, 12), (384, 14))
"""Widths and depths of a FlowDCN, each about twice as expensive as the one before."""

PARAMETERS_PER_IMAGE = 40
"""A network of so many parameters wants to see one image."""

IMAGE_SIDES = (8, 16, 24, 32, 48, 64, 96, 128)
"""Of images in pixels, as a plan chooses them; those up to 16 are for any network."""

PARAMETERS_AT_32 = 1e6
"""A network for 32x32 pixels has at least so many parameters, and more for more pixels."""

AUGMENTED_FROM = 100
"""Passes over the images from which on they are augmented."""

AUGMENT, AUGMENT_KINDS = 0.12, ("flip", "scale", "anisotropy", "translation")
"""Probability of each change, and the changes; the network is told, so samples show none."""

HALF_LIFE = 0.02
"""Share of the length that is the half-life of the average of the weights."""

RISING, FALLING = 0.05, 0.5
"""Shares of the length in which the learning rate rises, and falls to zero."""

SPARE = 0.03
"""Share of the time that is left free: the speed is known only about so well."""


class Candidate(NamedTuple):
    """What the speed of a training depends on.

    Attributes:
        size: height and width in pixels.
        patch: pixels along a side of a patch.
        width: feature channels.
        depth: number of blocks.
        batch: images in a step.
    """

    size: Size
    patch: int
    width: int
    depth: int
    batch: int

    @property
    def parameters(self) -> int:
        """About how many numbers are trained."""
        return 17 * self.depth * self.width**2

    @property
    def work(self) -> int:
        """What an image costs, in a unit of its own."""
        return math.prod(self.size) // self.patch**2 * self.depth * self.width**2


Rate = Callable[[Candidate], float]
"""Measures the images a second of a training."""


@dataclass(frozen=True)
class Plan:
    """What is trained, and in which steps.

    Attributes:
        network: with size, patch and batch.
        images_per_second: of its training, as measured.
        images: length of the run in images seen.
        lr: peak learning rate.
        warmup_images: images over which it rises.
        decay_images: images at the end over which it falls to zero.
        ema_decay: share of the average of the weights that a step keeps.
        augment: probability of each change of an image.
        channels: of the images.
        passes: how often each image is shown.
        most_images: beyond so many a model may copy its images.
        num_classes: of the images.
    """

    network: Candidate
    images_per_second: float
    images: int
    lr: float
    warmup_images: int
    decay_images: int
    ema_decay: float
    augment: float
    channels: Literal[1, 3]
    passes: float
    most_images: int


def choose_plan(
    facts: Facts, seconds: float, rate_of: Rate, given: Mapping[str, Any], wide: bool
) -> Plan:
    """Return the plan of a training.

    Args:
        facts: what is known of the images.
        seconds: of training, without start and end.
        rate_of: measures a candidate.
        given: settings that are chosen already, by their dotted keys such as "data.size".
        wide: whether the device computes large batches faster, as GPUs do.
    """
    count = facts.num_images
    most = count * (MOST_PASSES_AUGMENTED if may_augment(given) else MOST_PASSES)
    length = given.get("images")  # then the speed chooses nothing
    usual = choose_batch(length, count) if length else _batch(128 if wide else 32, count)
    batch = given.get("batch_size", usual)
    first = candidate_of(given.get("data.size") or (32, 32), RUNGS[2], batch, given)
    known: dict[Candidate, float] = {} if length else {first: rate_of(first)}

    def seen(candidate: Candidate) -> float:
        """Return the images that a candidate sees, by the speed of one that was measured."""
        if length:
            return length
        near = min(known, key=lambda other: abs(math.log(other.work / candidate.work)))
        rate = known[near] * near.work / candidate.work
        return rate * seconds * (1 - SPARE)

    size = given.get("data.size") or choose_size(facts, batch, seen, given)
    rungs = [candidate_of(size, rung, batch, given) for rung in RUNGS]
    while True:
        fitting = [c for c in rungs if seen(c) * PARAMETERS_PER_IMAGE >= c.parameters]
        best = max(fitting, default=rungs[0])
        if best in known:
            break
        known[best] = rate_of(best)
        if length:
            break
    images = min(int(seen(best)), most)
    if not length and "batch_size" not in given:
        best = best._replace(batch=choose_batch(images, count))
        if best not in known:  # of a batch that is faster or slower than the one measured
            known = {best: rate_of(best)}
            images = min(int(seen(best)), most)
    return set_length(best, images, facts, known[best], given, most)


def set_length(
    network: Candidate,
    images: int,
    facts: Facts,
    rate: float,
    given: Mapping[str, Any],
    most: int,
) -> Plan:
    """Return the plan of a network that sees so many images; what follows from these two."""
    steps = max(1, images // network.batch)
    images = given.get("images") or steps * network.batch
    passes = images / facts.num_images
    return Plan(
        network,
        rate,
        images,
        choose_lr(network),
        max(1, int(RISING * images)),
        max(1, int(FALLING * images)),
        choose_decay(images, network.batch),
        AUGMENT if passes >= AUGMENTED_FROM and may_augment(given) else 0.0,
        1 if facts.grey else 3,
        passes,
        most,
    )


def may_augment(given: Mapping[str, Any]) -> bool:
    """Return whether a plan may change the images, of which not every process can be told."""
    return given.get("data.augment") != 0 and given.get("process") != "meanflow"


def choose_size(
    facts: Facts,
    batch: int,
    seen: Callable[[Candidate], float],
    given: Mapping[str, Any],
) -> Size:
    """Return the largest size that a network fit for it learns in the time, at most the median.

    A given network takes the place of the fit one. It sees as many images as the fit one wants.

    Args:
        facts: what is known of the images.
        batch: images in a step.
        seen: from a candidate to the images that it sees in the time.
        given: settings that are chosen already.
    """
    height, width = facts.size or (32, 32)
    sides = [side for side in IMAGE_SIDES if side <= min(height, width)] or [IMAGE_SIDES[0]]
    for side in [side for side in reversed(sides) if side > 16]:
        least = PARAMETERS_AT_32 * side**2 / 32**2
        size = shaped(side, height / width)
        for rung in RUNGS:
            fit = candidate_of(size, rung, batch, {})
            if fit.parameters >= least:
                trained = candidate_of(size, rung, batch, given)
                if seen(trained) * PARAMETERS_PER_IMAGE >= fit.parameters:
                    return size
                break
    return shaped(min(16, sides[-1]), height / width)


def shaped(side: int, ratio: float) -> Size:
    """Return about side x side pixels at a ratio of height to width, in multiples of 4 or 8.

    What is nearly square becomes a square; small or very long images become one too.
    """
    if side < 24 or not 0.4 < ratio < 2.5 or 0.8 < ratio < 1.25:
        return side, side
    unit = 4 if side < 48 else 8
    height, width = (unit * round(side * f / unit) for f in (ratio**0.5, ratio**-0.5))
    return height, width


def candidate_of(
    size: Size, rung: tuple[int, int], batch: int, given: Mapping[str, Any]
) -> Candidate:
    """Return a network of the table for a size, or the one that is given in its place."""
    width, depth = rung
    if any(key.startswith("model.") and key != "model.patch_size" for key in given):
        width, depth = RUNGS[4]
    return Candidate(
        size,
        given.get("model.patch_size") or choose_patch(size),
        given.get("model.width", width),
        given.get("model.depth", depth),
        batch,
    )


def choose_patch(size: Size) -> int:
    """Return the side of a patch: 1 up to 16 pixels, 2 up to 64, then as much as the size grows."""
    side = math.prod(size) ** 0.5
    patch = 1 if side <= 16 else max(2, 2 ** round(math.log2(side / 32)))
    while any(side % patch for side in size):
        patch //= 2
    return patch


def choose_batch(images: int, count: int) -> int:
    """Return a batch that grows with the root of the length, a power of two in 8..256."""
    return _batch(2 ** round(math.log2(max(images, 1) ** 0.5 / 8)), count)


def _batch(wanted: float, count: int) -> int:
    """Return a batch near the one wanted, of at most as many images as there are."""
    return int(min(max(8, wanted), 256, 2 ** int(math.log2(count))))


def choose_lr(network: Candidate) -> float:
    """Return the peak learning rate: lower for wide networks, higher for large batches."""
    rate = 1e-3 * min(1.5, (network.batch / 32) ** 0.5) * (192 / network.width) ** 0.75
    return float(f"{min(max(rate, 2e-4), 2e-3):.2g}")


def choose_decay(images: int, batch: int) -> float:
    """Return the decay of the average whose half-life is a share of the length."""
    steps = max(1.0, HALF_LIFE * images / batch)
    return float(f"{min(0.5 ** (1 / steps), 0.9999):.5g}")
