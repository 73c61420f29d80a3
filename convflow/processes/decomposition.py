"""Images and videos as a sum of scales, from coarse to fine, each at its own resolution.

Scale 1 is the image made small; scale s > 1 is what the image at resolution s has beyond the
one before, `down(x, s) - up(down(x, s - 1))` (Haji-Ali et al. 2025, arXiv 2506.19839, section 3.2).
A decomposition is a row of `DECOMPOSITIONS`: how to go down and up by whole factors. Of a video a
factor is one of height and width, of the frames, or of all three.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from convflow.settings.fields import Factor
from convflow.settings.read import read_value
from convflow.types import (
    InputError,
    Size,
    check_name,
    frames_text,
    in_cells,
    nearest_size,
    size_text,
)

BLOCK = 8
"""Longest block of the cosine transform, as in JPEG."""


Axes = Literal["space", "time", "both"]
"""What a factor divides: height and width, the frames of a video, or all three."""

Factors = int | tuple[int, ...]
"""A factor of height and width, or one for each of the last axes."""


class Resampling(NamedTuple):
    """Down and up by whole factors along the last axes; leading axes stay as they are.

    Cells are taken together in blocks of at most `block` of them, at least of the factor.
    """

    down: Callable[[Tensor, Factors], Tensor]
    up: Callable[[Tensor, Factors], Tensor]
    block: int = 1


def mean_down(x: Float[Tensor, "*N H W"], factors: Factors) -> Float[Tensor, "*M h w"]:
    """Return the means of blocks of so many cells along the last axes."""
    inner = []
    for number, (axis, factor) in enumerate(_axes(factors)):
        place = axis - number  # behind which an axis stands for each of those before
        x = x.unflatten(place, (x.shape[place] // factor, factor))
        inner.append(place)
    return x.mean(inner)


def nearest_up(x: Float[Tensor, "*M h w"], factors: Factors) -> Float[Tensor, "*N H W"]:
    """Return every cell as a block of so many cells; the inverse Haar transform."""
    for axis, factor in _axes(factors):
        x = x.repeat_interleave(factor, axis) if factor > 1 else x
    return x


def linear_up(x: Float[Tensor, "*M h w"], factors: Factors) -> Float[Tensor, "*N H W"]:
    """Return `x` interpolated between the centres of its cells, constant beyond the outermost.

    It is bilinear along height and width, and trilinear where frames are interpolated too.
    """
    scale = tuple(factor for _, factor in reversed(_axes(factors)))
    count = len(scale)
    maps = x.reshape(-1, 1, *x.shape[-count:])
    mode = "bilinear" if count == 2 else "trilinear"
    grown = nn.functional.interpolate(maps, scale_factor=scale, mode=mode)
    return grown.view(*x.shape[:-count], *grown.shape[-count:])


def cosine_down(x: Float[Tensor, "*N H W"], factors: Factors) -> Float[Tensor, "*M h w"]:
    """Return the low frequencies of blocks of at most eight cells, as a smaller image.

    A block depends on the factor alone, so that images of all sizes are split alike.
    """
    return _along(x, factors, _cosine_matrix)


def cosine_up(x: Float[Tensor, "*M h w"], factors: Factors) -> Float[Tensor, "*N H W"]:
    """Return the image whose blocks have the frequencies of `x` and no higher ones."""
    return _along(x, factors, lambda factor, like: factor * _cosine_matrix(factor, like).T)


DECOMPOSITIONS: dict[str, Resampling] = {
    "laplacian": Resampling(mean_down, linear_up),
    "haar": Resampling(mean_down, nearest_up),
    "dct": Resampling(cosine_down, cosine_up, BLOCK),
}
"""By name; all give every part as an image: as channels, coefficients did not learn (app. F)."""


class Decomposition:
    """An image or a video as a sum of S scales, exact but for rounding.

    Args:
        name: "laplacian" (means down, linear up), "haar" (means down, copies up: the two bands of
            a Haar wavelet) or "dct" (low frequencies of blocks).
        factors: S - 1 whole numbers of at least 2, between neighbouring scales from coarse to fine.
        axes: what each factor divides, or one word for all; "space" where there is none.

    Raises:
        InputError: an unknown name, a factor that is no whole number of at least 2, or not as many
            words as factors.

    Examples:
        >>> parts = Decomposition("laplacian", (2, 2)).split(torch.randn(1, 3, 16, 32))
        >>> [tuple(part.shape[2:]) for part in parts]
        [(4, 8), (8, 16), (16, 32)]
        >>> Decomposition(factors=(2, 2), axes=("time", "space")).sizes((16, 32, 32))
        ((8, 16, 16), (16, 16, 16), (16, 32, 32))
    """

    def __init__(
        self,
        name: str = "laplacian",
        factors: Sequence[int] = (2,),
        axes: Sequence[Axes] = (),
    ) -> None:
        check_name("decomposition", name, DECOMPOSITIONS)
        read_value(factors, tuple[Factor, ...], "factors")
        if not factors:
            raise InputError(
                "expected one or more factors of at least 2 between the scales, got none; two "
                "scales are the factor 2"
            )
        read_value(axes, tuple[Axes, ...], "axes")
        words = tuple(axes) or ("space",)
        words = words * len(factors) if len(words) == 1 else words
        if len(words) != len(factors):
            raise InputError(
                f"expected axes of {len(factors)} words, one for each factor, got {list(axes)}; "
                "give as many, or one for all"
            )
        self.name, self.factors, self.axes = name, tuple(factors), words
        self.resampling = DECOMPOSITIONS[name]

    @property
    def num_scales(self) -> int:
        """How many scales there are, S."""
        return len(self.factors) + 1

    @property
    def downsampling(self) -> tuple[int, ...]:
        """How many times shorter than the image's the sides of each scale are, coarse to fine."""
        return self._products(self._of("space"))

    @property
    def frame_downsampling(self) -> tuple[int, ...]:
        """How many times fewer frames than the video each scale has, from coarse to fine."""
        return self._products(self._of("time"))

    @property
    def video(self) -> bool:
        """Whether frames are divided too, so that there must be some."""
        return "time" in self.axes or "both" in self.axes

    @property
    def steps(self) -> tuple[Factors, ...]:
        """From each scale to the next finer one, by how much each of the last axes grows."""
        pairs = zip(self._of("time"), self._of("space"), strict=True)
        return tuple(space if time == 1 else (time, space, space) for time, space in pairs)

    @property
    def multiple(self) -> int:
        """Height and width are multiples of it: of the factors' product, and of whole blocks."""
        return self._multiple("space")

    @property
    def frame_multiple(self) -> int:
        """The frames of a video are a multiple of it, likewise."""
        return self._multiple("time")

    def sizes(self, size: Size, cell: int = 1, frame_cell: int = 1) -> tuple[Size, ...]:
        """Return the size of every scale, from coarse to fine, in cells.

        Args:
            size: height and width of the image, in pixels, of a video frames before them.
            cell: pixels along a side of a cell, the factor of the codec.
            frame_cell: frames of a cell, the `frame_factor` of the codec.

        Raises:
            InputError: a side that is no multiple of `multiple` cells, or frames that are none of
                `frame_multiple`.
        """
        most, fewest = self.multiple * cell, self.frame_multiple
        frames, sides = in_cells(size, 1, frame_cell)[:-2], size[-2:]
        if self.video and not frames:
            raise InputError(
                f"expected videos for scales along time, got images of {size_text(size)}; leave "
                "the axes out"
            )
        if min(size) < 1 or any(s % most for s in sides) or any(f % fewest for f in frames):
            what = f"a height and width that {most} divides"
            what += f", and {frames_text(fewest, frame_cell)}" if fewest > 1 else ""
            near = size_text(nearest_size(size, most, fewest, frame_cell))
            raise InputError(
                f"expected {what}, for scales of {self.name} with the factors "
                f"{list(self.factors)}, got {size_text(size)}; the nearest that works is {near}, "
                "or change the factors"
            )
        pairs = zip(self.frame_downsampling, self.downsampling, strict=True)
        return tuple(
            (*(f // few for f in frames), *(side // (by * cell) for side in sides))
            for few, by in pairs
        )

    def split(self, x: Float[Tensor, "*N H W"]) -> tuple[Float[Tensor, "*_"], ...]:
        """Return the scales of images or videos, from coarse to fine; leading axes stay.

        Raises:
            InputError: a side that is no multiple of `multiple`.
        """
        self.sizes(tuple(x.shape[-3 if self.video else -2 :]))
        parts = []
        for step in reversed(self.steps):
            small = self.resampling.down(x, step)
            parts.append(x - self.resampling.up(small, step))
            x = small
        return (x, *reversed(parts))

    def join(self, parts: Sequence[Float[Tensor, "*_"]]) -> Float[Tensor, "*N H W"]:
        """Return the image that the first scales sum up to, at the resolution of the last one."""
        x = parts[0]
        for part, step in zip(parts[1:], self.steps, strict=False):
            x = self.resampling.up(x, step) + part
        return x

    def grow(
        self, x: Float[Tensor, "*_"], scale: int, last: int | None = None
    ) -> Float[Tensor, "*N H W"]:
        """Return an image at the resolution of `scale` (0 the coarsest) brought to that of `last`,
        by default the finest."""
        for step in self.steps[scale:last]:
            x = self.resampling.up(x, step)
        return x

    def _of(self, axis: Axes) -> list[int]:
        """Return what each factor divides along space or time by; 1 where nothing."""
        pairs = zip(self.factors, self.axes, strict=True)
        return [factor if word in (axis, "both") else 1 for factor, word in pairs]

    def _products(self, factors: Sequence[int]) -> tuple[int, ...]:
        return tuple(math.prod(factors[scale:]) for scale in range(self.num_scales))

    def _multiple(self, axis: Axes) -> int:
        """Return what whole cells and blocks want of the sides along space or time."""
        factors, block = self._of(axis), self.resampling.block
        pairs = [*zip(factors, self._products(factors)[1:], strict=True)]
        return math.lcm(*(_small_cells(block, by) * by * over for by, over in pairs if by > 1))


def pack(parts: Sequence[Float[Tensor, "*_"]], axes: int = 2) -> Float[Tensor, "*B 1 N"]:
    """Return scales side by side as one tensor, N the sum of their places, coarse to fine.

    So a solver, guidance and whatever else takes images (B, C, H, W) takes all scales at once.
    """
    return torch.cat([part.flatten(-axes) for part in parts], -1).unsqueeze(-2)


def unpack(x: Float[Tensor, "*B 1 N"], sizes: Sequence[Size]) -> tuple[Float[Tensor, "*_"], ...]:
    """Return the scales that `pack` put side by side: the first of `sizes`, as many as there are.

    Raises:
        InputError: numbers that are not those of the first scales.
    """
    areas, count = [math.prod(size) for size in sizes], x.shape[-1]
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
    noise: Float[Tensor, "B C *F H W"],
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
        sizes: of the scales, from coarse to fine.
    """
    count = sum(map(math.prod, sizes))
    rows, step = [noise.flatten(2)], 0
    while sum(row.shape[2] for row in rows) < count:
        step += 1
        rows.append(draw(step).to(noise).flatten(2))
    whole = torch.cat(rows, 2)[:, :, None, :count]
    return whole if state is None else torch.cat([state, whole[..., state.shape[-1] :]], -1)


def _axes(factors: Factors) -> list[tuple[int, int]]:
    """Return the last axes and the factor of each, the last one first."""
    each = (factors, factors) if isinstance(factors, int) else factors
    return [(-1 - place, factor) for place, factor in enumerate(reversed(each))]


def _along(x: Tensor, factors: Factors, matrix_of: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Multiply blocks along each axis that has a factor by the matrix of that."""
    full = x
    for axis, factor in sorted(_axes(factors)):
        if factor > 1:
            matrix = matrix_of(factor, x)
            full = _by_blocks(full.to(matrix.dtype), matrix, axis)
    return full.to(x.dtype)


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
