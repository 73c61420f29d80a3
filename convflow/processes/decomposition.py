"""Images as a sum of scales, from coarse to fine, each at its own resolution.

Scale 1 is the image made small; scale s > 1 is what the image at resolution s has beyond the
one before, `down(x, s) - up(down(x, s - 1))` (Haji-Ali et al. 2025, arXiv 2506.19839, section 3.2).
A decomposition is a row of `DECOMPOSITIONS`: how to go down and up by a whole factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from convflow.settings.fields import Factor
from convflow.settings.read import read_value
from convflow.types import InputError, Size, check_name

BLOCK = 8
"""Longest block of the cosine transform, as in JPEG."""


class Resampling(NamedTuple):
    """Down and up by a whole factor along the last two axes; leading axes stay as they are.

    Cells are taken together in blocks of at most `block` of them, at least of the factor.
    """

    down: Callable[[Tensor, int], Tensor]
    up: Callable[[Tensor, int], Tensor]
    block: int = 1


def mean_down(x: Float[Tensor, "*N H W"], factor: int) -> Float[Tensor, "*N h w"]:
    """Return the means of squares of `factor` by `factor` cells."""
    *_, height, width = x.shape
    cells = x.unflatten(-1, (width // factor, factor)).unflatten(-3, (height // factor, factor))
    return cells.mean((-3, -1))


def nearest_up(x: Float[Tensor, "*N h w"], factor: int) -> Float[Tensor, "*N H W"]:
    """Return every cell as a square of `factor` by `factor` cells; the inverse Haar transform."""
    return x.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def bilinear_up(x: Float[Tensor, "*N h w"], factor: int) -> Float[Tensor, "*N H W"]:
    """Return `x` interpolated between the centres of its cells, constant beyond the outermost."""
    maps = x.reshape(-1, 1, *x.shape[-2:])
    grown = nn.functional.interpolate(maps, scale_factor=factor, mode="bilinear")
    return grown.view(*x.shape[:-2], *grown.shape[-2:])


def cosine_down(x: Float[Tensor, "*N H W"], factor: int) -> Float[Tensor, "*N h w"]:
    """Return the low frequencies of blocks of at most eight cells, as a smaller image.

    A block depends on the factor alone, so that images of all sizes are split alike.
    """
    matrix = _cosine_matrix(factor, x)
    rows = _by_blocks(x.to(matrix.dtype), matrix, -2)
    return _by_blocks(rows, matrix, -1).to(x.dtype)


def cosine_up(x: Float[Tensor, "*N h w"], factor: int) -> Float[Tensor, "*N H W"]:
    """Return the image whose blocks have the frequencies of `x` and no higher ones."""
    matrix = factor * _cosine_matrix(factor, x).T
    rows = _by_blocks(x.to(matrix.dtype), matrix, -2)
    return _by_blocks(rows, matrix, -1).to(x.dtype)


DECOMPOSITIONS: dict[str, Resampling] = {
    "laplacian": Resampling(mean_down, bilinear_up),
    "haar": Resampling(mean_down, nearest_up),
    "dct": Resampling(cosine_down, cosine_up, BLOCK),
}
"""By name; all give every part as an image: as channels, coefficients did not learn (app. F)."""


class Decomposition:
    """An image as a sum of S scales, exact but for rounding.

    Args:
        name: "laplacian" (means down, bilinear up), "haar" (means down, copies up: the two bands of
            a Haar wavelet) or "dct" (low frequencies of blocks).
        factors: S - 1 whole numbers of at least 2, between neighbouring scales from coarse to fine.

    Raises:
        InputError: an unknown name, or a factor that is no whole number of at least 2.

    Examples:
        >>> parts = Decomposition("laplacian", (2, 2)).split(torch.randn(1, 3, 16, 32))
        >>> [tuple(part.shape[2:]) for part in parts]
        [(4, 8), (8, 16), (16, 32)]
    """

    def __init__(self, name: str = "laplacian", factors: Sequence[int] = (2,)) -> None:
        check_name("decomposition", name, DECOMPOSITIONS)
        read_value(factors, tuple[Factor, ...], "factors")
        if not factors:
            raise InputError(
                "expected one or more factors of at least 2 between the scales, got none; two "
                "scales are the factor 2"
            )
        self.name, self.factors = name, tuple(factors)
        self.resampling = DECOMPOSITIONS[name]

    @property
    def num_scales(self) -> int:
        """How many scales there are, S."""
        return len(self.factors) + 1

    @property
    def downsampling(self) -> tuple[int, ...]:
        """How many times smaller than the image each scale is, from coarse to fine."""
        return tuple(math.prod(self.factors[scale:]) for scale in range(self.num_scales))

    @property
    def multiple(self) -> int:
        """Height and width are multiples of it: of the factors' product, and of whole blocks."""
        block = self.resampling.block
        pairs = zip(self.factors, self.downsampling[1:], strict=True)
        return math.lcm(*(_small_cells(block, factor) * factor * by for factor, by in pairs))

    def sizes(self, size: Size, cell: int = 1) -> tuple[Size, ...]:
        """Return height and width of every scale, from coarse to fine, in cells.

        Args:
            size: height and width of the image, in pixels.
            cell: pixels along a side of a cell, the factor of the codec.

        Raises:
            InputError: a side that is no multiple of `multiple` cells.
        """
        most = self.multiple * cell
        if min(size) < 1 or any(side % most for side in size):
            near = "x".join(str(max(most, round(side / most) * most)) for side in size)
            raise InputError(
                f"expected a height and width that {most} divides, for scales of {self.name} with "
                f"the factors {list(self.factors)}, got {size[0]}x{size[1]}; the nearest that "
                f"works is {near}, or change the factors"
            )
        return tuple((size[0] // (by * cell), size[1] // (by * cell)) for by in self.downsampling)

    def split(self, x: Float[Tensor, "*N H W"]) -> tuple[Float[Tensor, "*N _ _"], ...]:
        """Return the scales of images or videos, from coarse to fine; leading axes stay.

        Raises:
            InputError: a side that is no multiple of `multiple`.
        """
        self.sizes((x.shape[-2], x.shape[-1]))
        parts = []
        for factor in reversed(self.factors):
            small = self.resampling.down(x, factor)
            parts.append(x - self.resampling.up(small, factor))
            x = small
        return (x, *reversed(parts))

    def join(self, parts: Sequence[Float[Tensor, "*N _ _"]]) -> Float[Tensor, "*N H W"]:
        """Return the image that the first scales sum up to, at the resolution of the last one."""
        x = parts[0]
        for part, factor in zip(parts[1:], self.factors, strict=False):
            x = self.resampling.up(x, factor) + part
        return x

    def grow(
        self, x: Float[Tensor, "*N _ _"], scale: int, last: int | None = None
    ) -> Float[Tensor, "*N H W"]:
        """Return an image at the resolution of `scale` (0 the coarsest) brought to that of `last`,
        by default the finest."""
        for factor in self.factors[scale:last]:
            x = self.resampling.up(x, factor)
        return x


def pack(parts: Sequence[Float[Tensor, "*B C _ _"]]) -> Float[Tensor, "*B C 1 N"]:
    """Return scales side by side as one tensor, N the sum of H W over them, coarse to fine.

    So a solver, guidance and whatever else takes images (B, C, H, W) takes all scales at once.
    """
    return torch.cat([part.flatten(-2) for part in parts], -1).unsqueeze(-2)


def unpack(
    x: Float[Tensor, "*B C 1 N"], sizes: Sequence[Size]
) -> tuple[Float[Tensor, "*B C _ _"], ...]:
    """Return the scales that `pack` put side by side: the first of `sizes`, as many as there are.

    Raises:
        InputError: numbers that are not those of the first scales.
    """
    areas, count = [height * width for height, width in sizes], x.shape[-1]
    totals = [sum(areas[: scale + 1]) for scale in range(len(areas))]
    if count not in totals:
        raise InputError(
            f"expected {' or '.join(map(str, totals))} numbers per channel, for scales of "
            f"{list(sizes)}, got {count}; pack the scales from the coarsest on"
        )
    held = totals.index(count) + 1
    parts = x.squeeze(-2).split(areas[:held], -1)
    return tuple(part.unflatten(-1, size) for part, size in zip(parts, sizes, strict=False))


def fill(
    state: Float[Tensor, "B C 1 _"] | None,
    noise: Float[Tensor, "B C H W"],
    draw: Callable[[int], Tensor],
    sizes: Sequence[Size],
) -> Float[Tensor, "B C 1 N"]:
    """Return a packed state with noise behind it, so that it holds scales of `sizes`.

    The noise of the coarsest scale comes first, and all scales have more numbers than an image:
    those of `noise`, then of draw 1, 2, ...

    Args:
        state: the first scales; None for noise alone.
        noise: of the size of whole images.
        draw: gives more noise of that shape.
        sizes: height and width of the scales, from coarse to fine.
    """
    count = sum(height * width for height, width in sizes)
    rows, step = [noise.flatten(2)], 0
    while sum(row.shape[2] for row in rows) < count:
        step += 1
        rows.append(draw(step).to(noise).flatten(2))
    whole = torch.cat(rows, 2)[:, :, None, :count]
    return whole if state is None else torch.cat([state, whole[..., state.shape[-1] :]], -1)


def _by_blocks(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Multiply blocks along an axis by a matrix (M, L)."""
    blocks = x.movedim(axis, -1).unflatten(-1, (-1, matrix.shape[1]))
    with torch.autocast(x.device.type, enabled=False):  # images stay exact beside a fast network
        return (blocks @ matrix.T).flatten(-2).movedim(-1, axis)


def _small_cells(block: int, factor: int) -> int:
    """Return how many cells of the small image a block of the large one becomes."""
    return max(block // factor, 1)


def _cosine_matrix(factor: int, like: Tensor) -> Float[Tensor, "M L"]:
    """Return what takes a block of L cells to one of M = L / factor: cosines there and back.

    It has the dtype of `like`, float32 at least.
    """
    length = _small_cells(BLOCK, factor)
    matrix = _cosines(length).T @ _cosines(length * factor)[:length] / factor**0.5
    return matrix.to(like.device, torch.promote_types(like.dtype, torch.float32))


def _cosines(length: int) -> Float[Tensor, "L L"]:
    """Return the orthonormal cosine transform of type II, a frequency in each row."""
    cell = torch.arange(length, dtype=torch.float64)
    rows = torch.cos(math.pi / length * (cell + 0.5) * cell[:, None]) * (2 / length) ** 0.5
    return torch.cat([rows[:1] / 2**0.5, rows[1:]])
