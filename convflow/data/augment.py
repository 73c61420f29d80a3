"""Changes of images whose strengths a network is told, so that none of them leaks into samples.

Karras et al. 2022 (EDM, arXiv 2206.00364), appendix F.2: the geometric changes and their strengths.
Karras et al. 2020 (arXiv 2006.06676), appendix B: those of colour. Each change happens to an image
with the same probability, on its own; what the network is told is zero where nothing happened.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

AugmentKind = Literal[
    "flip",
    "quarter",
    "scale",
    "rotation",
    "anisotropy",
    "translation",
    "brightness",
    "contrast",
    "hue",
    "saturation",
]

TOLD: dict[AugmentKind, int] = {
    "flip": 2,
    "quarter": 2,
    "scale": 1,
    "rotation": 2,
    "anisotropy": 2,
    "translation": 2,
    "brightness": 1,
    "contrast": 1,
    "hue": 2,
    "saturation": 1,
}
"""Every change, and how many numbers tell the network of it."""

NUM_TOLD = sum(TOLD.values())
OF_COLOUR: frozenset[AugmentKind] = frozenset({"hue", "saturation"})
"""Changes that grey images cannot show."""

OF_CELLS: frozenset[AugmentKind] = frozenset({"flip", "quarter", "translation"})
"""Changes that move whole cells, which is all that can be done to latents."""

SCALE_STEP = 2**0.2  # factor of one standard deviation, also of the anisotropy
SHIFT = 1 / 8  # of height and width, likewise
BRIGHTNESS = 0.2  # of pixels in [-1, 1], likewise
CONTRAST_STEP = 2**0.5
SATURATION_STEP = 2.0


class Strengths(NamedTuple):
    """What happens to each image of a batch, on the CPU; zero where nothing does."""

    flip: Float[Tensor, "B 2"]
    """Whether left and right, and top and bottom, are exchanged."""
    quarter: Float[Tensor, " B"]
    """Quarter turns."""
    scale: Float[Tensor, " B"]
    """In standard deviations, as are all below but the angles."""
    rotation: Float[Tensor, " B"]
    """An angle in (-pi, pi)."""
    anisotropy: Float[Tensor, "B 2"]
    """Strength, and the angle of the axis."""
    translation: Float[Tensor, "B 2"]
    """To the right and down."""
    brightness: Float[Tensor, " B"]
    contrast: Float[Tensor, " B"]
    hue: Float[Tensor, " B"]
    """An angle in (-pi, pi)."""
    saturation: Float[Tensor, " B"]


def draw_strengths(
    count: int, probability: float, kinds: Collection[str], generator: torch.Generator
) -> Strengths:
    """Return what happens to `count` images.

    Args:
        count: number of images B.
        probability: of each change, in [0, 1].
        kinds: the changes that may happen. Those that may do not depend on the others.
        generator: of the CPU.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> draw_strengths(2, 1.0, ["quarter"], generator).scale
        tensor([0., 0.])
    """
    gates = torch.rand(len(TOLD), count, generator=generator) < probability
    chance = torch.rand(6, count, generator=generator)
    normal = torch.randn(7, count, generator=generator)
    angles = (2 * chance[3:] - 1) * math.pi
    drawn = {
        "flip": torch.stack([chance[0] < 0.5, chance[1] < 0.5], 1).float(),
        "quarter": (4 * chance[2]).floor().clamp(max=3),
        "scale": normal[0],
        "rotation": angles[0],
        "anisotropy": torch.stack([normal[1], angles[1]], 1),
        "translation": normal[2:4].T.contiguous(),
        "brightness": normal[4],
        "contrast": normal[5],
        "hue": angles[2],
        "saturation": normal[6],
    }
    for gate, name in zip(gates, TOLD, strict=True):
        happens = (gate & (name in kinds)).view(-1, *(1,) * (drawn[name].ndim - 1))
        drawn[name] = torch.where(happens, drawn[name], 0.0)
    return Strengths(**drawn)


def fit(strengths: Strengths, height: int, width: int, cells: bool = False) -> Strengths:
    """Return what can happen to images of a height and width.

    Quarter turns of an oblong image become half turns. With `cells`, images move by whole cells.
    """
    if height != width:
        strengths = strengths._replace(quarter=2 * strengths.quarter.clamp(max=1))
    if cells:
        unit = SHIFT * torch.tensor([width, height])
        strengths = strengths._replace(translation=(strengths.translation * unit).round() / unit)
    return strengths


def tell(strengths: Strengths) -> Float[Tensor, "B 16"]:
    """Return what a network is told: an angle a as cos a - 1 and sin a, all else as it is."""
    turn, strength = strengths.quarter * (math.pi / 2), strengths.anisotropy[:, 0]
    axis = strengths.anisotropy[:, 1]
    columns = [
        *strengths.flip.unbind(1),
        *(turn.cos() - 1, turn.sin()),
        strengths.scale,
        *(strengths.rotation.cos() - 1, strengths.rotation.sin()),
        *(strength * axis.cos(), strength * axis.sin()),
        *strengths.translation.unbind(1),
        strengths.brightness,
        strengths.contrast,
        *(strengths.hue.cos() - 1, strengths.hue.sin()),
        strengths.saturation,
    ]
    return torch.stack(columns, 1)


def augment(x: Float[Tensor, "B C H W"], strengths: Strengths) -> Float[Tensor, "B C H W"]:
    """Return images as they are after all that happens to them.

    An image to which nothing happens stays as it is, bit by bit. What moves or is scaled is
    resampled once, bicubic, with the image mirrored at its borders; changes of colour may leave
    the range.

    Args:
        x: images in [-1, 1]; C = 3 for hue and saturation.
        strengths: of these images, after `fit`.
    """
    return _recolour(_resample(_turn(x, strengths), strengths), strengths)


def move_cells(x: Float[Tensor, "B C H W"], strengths: Strengths) -> Float[Tensor, "B C H W"]:
    """Return latents flipped, turned and moved by whole cells, mirrored at their borders.

    Args:
        x: any numbers.
        strengths: of these latents, after `fit` with `cells`; of `OF_CELLS` alone.
    """
    x = _turn(x, strengths).clone()
    height, width = x.shape[2:]
    for row, (right, down) in enumerate(strengths.translation.tolist()):
        if right or down:
            columns = _mirrored(width, round(right * SHIFT * width), x.device)
            rows = _mirrored(height, round(down * SHIFT * height), x.device)
            x[row] = x[row][:, rows][:, :, columns]
    return x


def _mirrored(count: int, shift: int, device: torch.device) -> Int[Tensor, " N"]:
    """Return which of `count` cells in a row stands in each place once they have moved."""
    places = (torch.arange(count, device=device) - shift) % (2 * count)
    return torch.minimum(places, 2 * count - 1 - places)


def _turn(x: Tensor, strengths: Strengths) -> Tensor:
    """Return images flipped and turned by quarters, which moves numbers alone."""
    left_right, top_bottom = strengths.flip.bool().unbind(1)
    turned = x
    changes = [
        (left_right, lambda some: some.flip(3)),
        (top_bottom, lambda some: some.flip(2)),
        (strengths.quarter == 1, lambda some: some.rot90(1, (2, 3))),
        (strengths.quarter == 2, lambda some: some.rot90(2, (2, 3))),
        (strengths.quarter == 3, lambda some: some.rot90(3, (2, 3))),
    ]
    for mask, change in changes:
        rows = _rows(mask, x)
        if len(rows):
            turned = turned.index_copy(0, rows, change(turned[rows]))
    return turned


def _resample(x: Tensor, strengths: Strengths) -> Tensor:
    """Return images scaled, rotated, stretched and moved, those to which that happens."""
    stretch = strengths.anisotropy[:, 0]
    moved = (strengths.translation != 0).any(1)
    rows = _rows((strengths.scale != 0) | (strengths.rotation != 0) | (stretch != 0) | moved, x)
    if not len(rows):
        return x
    height, width = x.shape[2:]
    some = Strengths(*(part[rows.cpu()].double() for part in strengths))
    inverse, right, down = _inverse(some, height, width)
    (a, b), (c, d) = ((n.to(x).view(-1, 1, 1) for n in row) for row in inverse)
    # Pixels from the middle of the image: where each comes from, as a share of half the side.
    across = torch.arange(width, device=x.device, dtype=x.dtype) - (width - 1) / 2
    along = torch.arange(height, device=x.device, dtype=x.dtype)[:, None] - (height - 1) / 2
    across, along = across - right.to(x).view(-1, 1, 1), along - down.to(x).view(-1, 1, 1)
    from_left, from_top = a * across + b * along, c * across + d * along
    grid = torch.stack([from_left * (2 / width), from_top * (2 / height)], -1)
    sampled = F.grid_sample(x[rows], grid, "bicubic", "reflection", align_corners=False)
    return x.index_copy(0, rows, sampled.clamp(-1, 1))


def _inverse(
    strengths: Strengths, height: int, width: int
) -> tuple[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]], Tensor, Tensor]:
    """Return the matrix from places to where their pixels come from, and the translation.

    The image is scaled by s, rotated by r, stretched by k along an axis at angle q and by 1 / k
    across it, then moved: p -> Q diag(k, 1/k) Q' R s p + d, with Q and R rotations by q and r.
    """
    scale = SCALE_STEP**strengths.scale
    stretch, axis = SCALE_STEP ** strengths.anisotropy[:, 0], strengths.anisotropy[:, 1]
    cos, sin, qcos, qsin = (
        f(angle) for angle in (strengths.rotation, axis) for f in (torch.cos, torch.sin)
    )
    # Of the inverse, R' Q diag(1/k, k) Q' / s, first the symmetric part.
    one = qcos**2 / stretch + qsin**2 * stretch
    mixed = qcos * qsin * (1 / stretch - stretch)
    other = qsin**2 / stretch + qcos**2 * stretch
    inverse = (
        ((cos * one + sin * mixed) / scale, (cos * mixed + sin * other) / scale),
        ((cos * mixed - sin * one) / scale, (cos * other - sin * mixed) / scale),
    )
    right, down = strengths.translation.unbind(1)
    return inverse, right * (SHIFT * width), down * (SHIFT * height)


def _recolour(x: Tensor, strengths: Strengths) -> Tensor:
    """Return images brightened, of another contrast, hue and saturation, where that happens."""
    of_colour = (strengths.hue != 0) | (strengths.saturation != 0)
    rows = _rows((strengths.brightness != 0) | (strengths.contrast != 0) | of_colour, x)
    if not len(rows):
        return x
    some = Strengths(*(part[rows.cpu()] for part in strengths))
    beside = (-1, 1, 1, 1)
    changed = x[rows] + (BRIGHTNESS * some.brightness).to(x).view(beside)
    changed = changed * (CONTRAST_STEP**some.contrast).to(x).view(beside)
    if x.shape[1] == 3 and bool(of_colour.any()):
        changed = _turn_colours(changed, some.hue, SATURATION_STEP**some.saturation)
    return x.index_copy(0, rows, changed)


def _turn_colours(x: Float[Tensor, "B 3 H W"], hue: Tensor, saturation: Tensor) -> Tensor:
    """Return colours rotated around the axis of greys, and farther from it or nearer.

    Rodrigues' formula: of a colour v across the axis, cos a v + sin a (axis x v).
    """
    grey = x.mean(1, keepdim=True)
    off = x - grey
    red, green, blue = off.unbind(1)
    across = torch.stack([blue - green, red - blue, green - red], 1) / 3**0.5
    cos, sin = ((f(hue) * saturation).to(x).view(-1, 1, 1, 1) for f in (torch.cos, torch.sin))
    return grey + cos * off + sin * across


def _rows(mask: Tensor, x: Tensor) -> Int[Tensor, " R"]:
    """Return where a mask on the CPU is set, beside the images."""
    return mask.nonzero().flatten().to(x.device)
