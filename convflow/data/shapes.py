"""Drawn images of one object each, exact at any size and ratio: the data set `shapes`.

Image i of a split is a pure function of (split, i, size). Its design is drawn from raw words of
NumPy's PCG64, which NumPy promises never to change, and lives in continuous coordinates: lengths
of the object in shares of the shorter side, places and background in shares of each side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from PIL import Image

from convflow.data.splits import canonical
from convflow.types import InputError, Size

SIZE = (32, 32)
"""Height and width in pixels that `read` draws at."""

RADII = (0.2, 0.38)
"""Least and largest radius of the circle around an object, in shares of the shorter side."""

MARGIN = 0.03
"""Least distance of that circle from the border, in shares of the shorter side."""


class Outline(NamedTuple):
    """An outline around the origin, with its farthest points at distance 1.

    A point is turned and mirrored into the sector of angles [0, pi / folds], whose first edge
    points at a tip. It lies inside when a x + b y < c there for every line; a^2 + b^2 = 1.

    Args:
        name: The class.
        folds: Tips around the origin; 0 for outlines of the distance alone, where (x, y) = (r, 0).
        lines: Rows (a, b, c).
        area: What the outline holds.
    """

    name: str
    folds: int
    lines: tuple[tuple[float, float, float], ...]
    area: float


def _star(name: str, folds: int, inner: float) -> Outline:
    """A star with its dents at distance `inner`; a polygon where that is cos(pi / folds)."""
    x, y = inner * math.cos(math.pi / folds), inner * math.sin(math.pi / folds)
    length = math.hypot(1 - x, y)
    return Outline(name, folds, ((y / length, (1 - x) / length, y / length),), folds * y)


_ARM = 0.32  # half the width of a cross's arm
_REACH = math.sqrt(1 - _ARM**2)
_HOLE = 0.55  # radius of a ring's hole

SHAPES = (
    Outline("disc", 0, ((1, 0, 1),), math.pi),
    _star("square", 4, math.cos(math.pi / 4)),
    _star("triangle", 3, math.cos(math.pi / 3)),
    _star("star", 5, 0.45),
    Outline("ring", 0, ((1, 0, 1), (-1, 0, -_HOLE)), math.pi * (1 - _HOLE**2)),
    Outline("cross", 4, ((1, 0, _REACH), (0, 1, _ARM)), 8 * _ARM * _REACH - 4 * _ARM**2),
)
"""The outlines by class id."""


@dataclass(frozen=True)
class Design:
    """An image before it has a size; colours are RGB in [0, 1].

    Args:
        label: Class id.
        radius: Of the circle around the object, in shares of the shorter side.
        place: Down and right, [0, 1] each: of the way that the centre can go.
        angle: Of a tip, in radians from the right, clockwise as rows run down.
        colour: (3,) of the object.
        ground: (2, 3), the two colours that the background goes between.
        wave: Cycles down and across the whole image, and phase in cycles, of the background.
    """

    label: int
    radius: float
    place: tuple[float, float]
    angle: float
    colour: np.ndarray
    ground: np.ndarray
    wave: tuple[float, float, float]


class Drawn:
    """A Source of drawn objects: disc, square, triangle, star, ring and cross in turn.

    Args:
        split: `train`, `validation` or `test`; each has designs of its own.
        labelled: Whether they have classes.

    Raises:
        InputError: There is no such split.
    """

    name: str
    splits: ClassVar[dict[str, tuple[int, int]]]
    """Seed and number of images of each split."""

    def __init__(self, split: str = "train", labelled: bool = True) -> None:
        if canonical(split) not in self.splits:
            raise InputError(
                f"expected a split of {self.name} ({', '.join(self.splits)}), got {split!r}; "
                "choose one of those"
            )
        self._seed, self._count = self.splits[canonical(split)]
        self.class_names = tuple(shape.name for shape in SHAPES) if labelled else ()

    def __len__(self) -> int:
        return self._count

    def label(self, index: int) -> int:
        """Class of the object, in [0, 6); 0 without classes."""
        return int(index) % len(SHAPES) if self.class_names else 0

    def item_name(self, index: int) -> str:
        """Class and number, for messages."""
        return f"{SHAPES[int(index) % len(SHAPES)].name} {index}"

    def _drawn(self, index: int, count: int) -> tuple[int, Callable[[float, float], float]]:
        """Return the object of an index, and what draws at most `count` numbers for it.

        Raises:
            InputError: There is no such index.
        """
        if not 0 <= index < self._count:
            raise InputError(
                f"expected a number in 0..{self._count - 1} of {self.name}, got {index}; "
                "choose less"
            )
        return int(index) % len(SHAPES), shares_of(self._seed, index, count)


class DrawnShapes(Drawn):
    """The Source `shapes`: images of one object, 50,000 in `train` and 10,000 in each other split.

    Examples:
        >>> source = DrawnShapes("test")
        >>> len(source), source.item_name(3), source.draw(3, (96, 32)).size
        (10000, 'star 3', (32, 96))
    """

    name = "shapes"
    splits: ClassVar = {"train": (0, 50_000), "validation": (1, 10_000), "test": (2, 10_000)}

    def read(self, index: int) -> Image.Image:
        """The image at 32x32."""
        return self.draw(index, SIZE)

    def draw(self, index: int, size: Size) -> Image.Image:
        """The image at `size` (height, width) in pixels."""
        return Image.fromarray(draw_design(self.design(index), size))

    def design(self, index: int) -> Design:
        """What the image shows, the same at every size."""
        return design_of(*self._drawn(index, 18))


def shares_of(seed: int, index: int, count: int) -> Callable[[float, float], float]:
    """Return what draws evenly between two numbers, at most `count` times."""
    words = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(int(index),)))
    # Top 53 bits as a share of 1.
    shares = ((words.random_raw(count) >> np.uint64(11)) * 2.0**-53).tolist()
    return lambda low, high: low + (high - low) * shares.pop()


def design_of(
    label: int,
    uniform: Callable[[float, float], float],
    radii: tuple[float, float] = RADII,
) -> Design:
    """Return a design drawn with `uniform(low, high)`, its radius between those of `radii`."""
    light, tint, hue = uniform(0.3, 0.72), uniform(0.0, 0.05), uniform(0, 1)
    side = 1 if uniform(0, 1) < 0.5 else -1
    ground = _colour(light, tint, hue)
    other = _colour(
        light + side * uniform(0.05, 0.12), uniform(0.0, 0.05), hue + uniform(-0.2, 0.2)
    )
    course, cycles = uniform(0, 2 * math.pi), uniform(0.25, 0.55)
    return Design(
        label=label,
        radius=uniform(radii[0], radii[1]),
        place=(uniform(0, 1), uniform(0, 1)),
        angle=uniform(0, 2 * math.pi),
        colour=_colour(uniform(0.48, 0.55), uniform(0.39, 0.45), uniform(0, 1)),
        ground=np.stack([ground, other]),
        wave=(cycles * math.sin(course), cycles * math.cos(course), uniform(0, 1)),
    )


def _colour(light: float, chroma: float, hue: float) -> np.ndarray:
    """RGB at a distance of chroma sqrt(3/2) from the grey `light`, hue in turns."""
    return light + chroma * np.cos(2 * np.pi * (hue - np.arange(3) / 3))


def draw_design(design: Design, size: Size) -> np.ndarray:
    """The image of a design, its edges smoothed by the share of a pixel they cover.

    Returns:
        (H, W, 3) uint8.

    Raises:
        InputError: A side is below 1.
    """
    height, width = size
    if min(size) < 1:
        raise InputError(f"expected a size of at least 1x1 pixels, got {height}x{width}")
    radius, margin = design.radius * min(size), MARGIN * min(size)
    centre = [
        radius + margin + way * (side - 2 * (radius + margin))
        for way, side in zip(design.place, size, strict=True)
    ]
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
    down, across, phase = design.wave
    cycles = down * (rows / height) + across * (columns / width) + phase
    mix = 0.5 + 0.5 * np.sin(2 * np.pi * cycles[..., None])
    ground = design.ground[0] + mix * (design.ground[1] - design.ground[0])
    x, y = columns - centre[1], rows - centre[0]
    angle = np.arctan2(y, x) - design.angle
    cover = coverage(design.label, np.hypot(x, y), angle, radius)[..., None]
    return np.rint(255 * (ground + cover * (design.colour - ground))).astype(np.uint8)


def coverage(
    label: int, distance: np.ndarray, angle: np.ndarray, radius: float | np.ndarray
) -> np.ndarray:
    """Share of each pixel that an object covers: its signed distance clamped over one pixel.

    Exact along edges that run with the pixels, within 0.05 along others; up to 0.3 off at a tip or
    a dent, where two edges share a pixel.

    Args:
        label: Class id.
        distance: Of the pixels' centres from the object's centre, in pixels.
        angle: Their direction from there, in radians from a tip, either way round.
        radius: Of the circle around the object, in pixels; all three are broadcast.

    Returns:
        Shares in [0, 1].
    """
    shape = SHAPES[label]
    x, y = distance, np.zeros_like(distance)
    if shape.folds:
        sector = 2 * math.pi / shape.folds
        folded = np.abs(angle - sector * np.rint(angle / sector))
        x, y = distance * np.cos(folded), distance * np.sin(folded)
    outside = [a * x + b * y - c * radius for a, b, c in shape.lines]
    return np.clip(0.5 - np.maximum.reduce(outside), 0, 1)
