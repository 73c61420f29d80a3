"""Positions of the cells of a grid: fixed sines added once, or rotations of queries and keys.

Fixed: Peebles & Xie 2023, section 3. Rotary: Su et al. 2021 (arXiv 2104.09864), eq. 34, here along
two axes. For grids longer than those of training: Chen et al. 2023 (arXiv 2306.15595) for PI, Peng
et al. 2023 (arXiv 2309.00071, sections 3.1, 3.2 and 3.4) for NTK and YaRN, Lu et al. 2024 (FiT,
arXiv 2402.12376) for these along two axes, each by itself.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from convflow.nn.norm import widen
from convflow.types import InputError

Positions = Literal["sincos", "rotary"]

SCALINGS: dict[str, tuple[str, ...]] = {"sincos": ("pi", "ei"), "rotary": ("pi", "ntk", "yarn")}
"""The kinds of `PositionScaling` that each kind of positions has."""

MAX_POSITION_PERIOD = 10_000.0

FEW_TURNS, MANY_TURNS = 1.0, 32.0
"""Turns over the trained length below which YaRN scales in full, and above which not at all."""

HEAT = 0.1
"""Of YaRN's attention: queries and keys times 1 + HEAT ln(s)."""


class PositionScaling(NamedTuple):
    """How positions go on beyond the grid of training.

    With s = max(1, length / trained length), for each axis by itself, so that an axis that is not
    longer stays exactly as it is; f_k are the F frequencies of the axis, lowest last:

    - "pi" position interpolation: f_k / s, so that positions stay within those of training.
    - "ei" embedding interpolation: the trained table, stretched linearly (`align_corners=False`).
    - "ntk": the base times s**(d / (d - 2)) with the d = 2 F channels of the axis, that is
      f_k s**(-k / (F - 1)): the highest frequency stays, the lowest is that of "pi".
    - "yarn": f_k times 1 / s to 1 as it makes 1 to 32 turns over the trained length, linear in
      between; queries and keys times 1 + 0.1 ln(s) with the larger s of the two axes.

    The numbers 1, 32 and 0.1 were found for text (Peng et al. 2023, sections 3.2 and 3.4); over 16
    cells a frequency makes 2.5 turns at most, so "yarn" is near to "pi" there, but for its heat.

    Attributes:
        kind: a name in `SCALINGS`.
        rows: height of the grid of training, in cells.
        columns: its width.
        frames: frames of training, of a video; None leaves time as it is.
    """

    kind: str
    rows: int
    columns: int
    frames: int | None = None

    def check(self, positions: Positions) -> None:
        """Raise InputError unless `positions` can be scaled like this."""
        if self.kind not in (known := SCALINGS[positions]):
            raise InputError(
                f"expected the position scaling {' or '.join(known)} for {positions} positions, "
                f"got {self.kind!r}; choose one of them or none"
            )
        if self.rows < 1 or self.columns < 1:
            raise InputError(
                "expected a grid of training of at least 1 x 1 cells, got "
                f"{self.rows} x {self.columns}; give that of the trained size"
            )


def sincos_positions(
    rows: int,
    columns: int,
    width: int,
    like: Tensor,
    scaling: PositionScaling | None = None,
) -> Float[Tensor, "rows columns {width}"]:
    """Return the fixed embedding of every cell of a grid: its column, then its row.

    Each takes half of the channels: sines, then cosines, of `position * 10000**(-k / (width / 4))`
    for k = 0 .. width / 4 - 1. On a square grid these are the tables stored in published weights.

    Args:
        rows: height of the grid, in cells.
        columns: width of the grid, in cells.
        width: channels, a multiple of 4.
        like: a tensor whose device is used, and whose float64 is kept; float32 otherwise.
        scaling: "pi" or "ei", for a grid larger than that of training.

    Raises:
        InputError: a scaling of other positions.
    """
    if scaling is not None:
        scaling.check("sincos")
    kind, trained_rows, trained_columns, _ = scaling or (None, rows, columns, None)
    return _on_grid(
        _waves(columns, width // 4, like, kind, trained_columns),
        _waves(rows, width // 4, like, kind, trained_rows),
    )


def rotary_positions(
    rows: int,
    columns: int,
    width: int,
    like: Tensor,
    scaling: PositionScaling | None = None,
) -> Float[Tensor, "2 rows columns {width//2}"]:
    """Return cosines and sines of the angles by which `rotate` turns the channels of each cell.

    The first half of the angles grows with the column, the second with the row, at `width / 4`
    geometric frequencies each; the arguments are those of `sincos_positions`, but the scaling may
    be "pi", "ntk" or "yarn". Of "yarn" they are longer than 1: vectors grow as they turn.
    """
    if scaling is not None:
        scaling.check("rotary")
    kind, trained_rows, trained_columns, _ = scaling or (None, rows, columns, None)
    x, wide, stretch_x = _axis(columns, width // 4, like, kind, trained_columns)
    y, tall, stretch_y = _axis(rows, width // 4, like, kind, trained_rows)
    angles = _on_grid(x[:, None] * wide, y[:, None] * tall)
    return _turns(angles, kind, torch.maximum(stretch_x, stretch_y))


def rotary_frames(
    frames: int, width: int, like: Tensor, scaling: PositionScaling | None = None
) -> Float[Tensor, "2 frames {width//2}"]:
    """Return cosines and sines of angles that grow with the frame alone, else as for a grid."""
    kind, trained = _along_time(frames, scaling)
    time, frequencies, stretch = _axis(frames, width // 2, like, kind, trained)
    return _turns(time[:, None] * frequencies, kind, stretch)


def rotary_video(
    frames: int,
    rows: int,
    columns: int,
    width: int,
    like: Tensor,
    scaling: PositionScaling | None = None,
) -> Float[Tensor, "2 frames rows columns {width//2}"]:
    """Return cosines and sines of the angles by which `rotate` turns the channels of a video.

    Three eighths of the angles, rounded down, grow with the column, as many with the row, and the
    rest with the frame. Other arguments are those of `rotary_positions`.
    """
    if scaling is not None:
        scaling.check("rotary")
    count = 3 * (width // 2) // 8
    kind, trained = _along_time(frames, scaling)
    _, trained_rows, trained_columns, _ = scaling or (None, rows, columns, None)
    grown = None if scaling is None else scaling.kind
    x, wide, stretch_x = _axis(columns, count, like, grown, trained_columns)
    y, tall, stretch_y = _axis(rows, count, like, grown, trained_rows)
    t, fast, stretch_t = _axis(frames, width // 2 - 2 * count, like, kind, trained)
    grid, line = _on_grid(x[:, None] * wide, y[:, None] * tall), t[:, None] * fast
    angles = torch.cat(
        [
            grid.expand(line.shape[0], -1, -1, -1),
            line[:, None, None].expand(-1, grid.shape[0], grid.shape[1], -1),
        ],
        dim=-1,
    )
    return _turns(angles, grown, torch.maximum(torch.maximum(stretch_x, stretch_y), stretch_t))


def rotate(x: Float[Tensor, "*N D"], rotation: Float[Tensor, "2 *M D//2"]) -> Float[Tensor, "*N D"]:
    """Turn channels k and k + D / 2 as one point in the plane, by the angles of `rotation`.

    Dot products of rotated vectors depend on the offset between their positions alone. `rotation`
    broadcasts over the leading axes; the turn is made in float32.
    """
    first, second = widen(x).chunk(2, dim=-1)
    cosines, sines = rotation
    turned = [first * cosines - second * sines, first * sines + second * cosines]
    return torch.cat(turned, dim=-1).to(x.dtype)


def _turns(angles: Tensor, kind: str | None, stretch: Tensor) -> Float[Tensor, 2 * N]:
    """Return cosines and sines of angles, of "yarn" longer than 1 where an axis is stretched."""
    rotation = torch.stack([angles.cos(), angles.sin()])
    return rotation * (1 + HEAT * stretch.log()) if kind == "yarn" else rotation


def _along_time(frames: int, scaling: PositionScaling | None) -> tuple[str | None, int]:
    """Return how positions along time are scaled, None for not at all, and the trained frames."""
    if scaling is None or scaling.frames is None:
        return None, frames
    return scaling.kind, scaling.frames


def _axis(
    length: int, count: int, like: Tensor, kind: str | None, trained: int
) -> tuple[Float[Tensor, " length"], Float[Tensor, " count"], Float[Tensor, ""]]:
    """Return the positions along an axis, the frequencies of its angles, and its stretch."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    index = torch.arange(count, device=like.device, dtype=dtype)
    places = torch.arange(length, device=like.device, dtype=dtype)
    frequencies, one = torch.exp(-math.log(MAX_POSITION_PERIOD) / count * index), index.new_ones(())
    if kind is None:
        return places, frequencies, one
    # A tensor: a branch on a length would be a graph of its own in the compiler.
    stretch = (one * length / trained).clamp(min=1)
    if kind == "pi":
        frequencies = frequencies / stretch
    elif kind == "ntk":
        frequencies = frequencies * stretch ** (-index / max(count - 1, 1))
    elif kind == "yarn":
        turns = trained * frequencies / (2 * math.pi)
        kept = ((turns - FEW_TURNS) / (MANY_TURNS - FEW_TURNS)).clamp(0, 1)
        # Not a sum of two shares: where nothing is stretched this is 1 exactly.
        frequencies = frequencies * torch.lerp(1 / stretch, one, kept)
    return places, frequencies, stretch


def _waves(
    length: int, count: int, like: Tensor, kind: str | None, trained: int
) -> Float[Tensor, "length C"]:
    """Return sines, then cosines, along an axis; of "ei" interpolated between those of training."""
    places, frequencies, stretch = _axis(length, count, like, kind, trained)
    if kind != "ei":
        return _waves_at(places, frequencies)
    place = ((places + 0.5) / stretch - 0.5).clamp(0, trained - 1)
    below = place.floor()
    above = (below + 1).clamp(max=trained - 1)
    ends = _waves_at(below, frequencies), _waves_at(above, frequencies)
    return torch.lerp(*ends, (place - below)[:, None])


def _waves_at(places: Tensor, frequencies: Tensor) -> Float[Tensor, "length C"]:
    angles = places[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _on_grid(along_x: Tensor, along_y: Tensor) -> Float[Tensor, "rows columns C"]:
    rows, columns = along_y.shape[0], along_x.shape[0]  # `len` would fix them in an export
    return torch.cat(
        [along_x.expand(rows, -1, -1), along_y[:, None].expand(-1, columns, -1)], dim=-1
    )
