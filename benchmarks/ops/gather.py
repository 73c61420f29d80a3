"""What the gradient of the values looks at, for maps of several sizes.

Run it as `python benchmarks/ops/gather.py` from the repository; it needs no GPU. Taps are drawn as
in `deform_gpu.py`. What their kernel finds for each tile is computed here by PyTorch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import harness
from benchmarks.ops import truth
from convflow.ops.deform import gpu, reference

SIDES = (16, 64, 128, 256)
GROUPS = 16
"""Groups of the benchmark, whose reach grows to 6 cells with their number."""
NOTE = """\
Means over the tiles of 8 x 8 cells of a square map. "tiles": of the map, all of which were looked
at before windows. "looked_at": tiles of positions in the window of the map. "multiplied": of these,
those that reach the cells. "pairs": pairs of a tile and a tap whose shares are computed; 9 is the
least."""


def count(side: int) -> dict[str, float]:
    """Means of what one tile of cells needs, over all groups; `side` is a multiple of 8."""
    _, values, offsets, _ = truth.inputs_of((1, side, side, GROUPS, 1), torch.float32, "cpu")
    del values
    across = side // gpu.TILE
    x = (offsets[0, ..., 0] + torch.arange(side).view(-1, 1, 1)).floor()
    y = (offsets[0, ..., 1] + torch.arange(side).view(-1, 1, 1, 1)).floor()
    touches = (x >= -1) & (x < side) & (y >= -1) & (y < side)
    columns, rows = boxes(x, touches, side), boxes(y, touches, side)
    pairs = (columns.size * rows.size).double().sum() / (GROUPS * across**2)
    looked_at = window(columns, 1) * window(rows, 0)
    multiplied = torch.zeros(())
    for tile_y in range(across):
        above = (rows.first <= tile_y) & (tile_y <= rows.last)
        for tile_x in range(across):
            beside = (columns.first <= tile_x) & (tile_x <= columns.last)
            multiplied += (above & beside).any(-1).sum()
    return {
        "side": side,
        "tiles": across**2,
        "looked_at": round(float(looked_at.mean()), 1),
        "multiplied": round(float(multiplied) / (GROUPS * across**2), 1),
        "pairs": round(float(pairs), 1),
    }


class Boxes(NamedTuple):
    """Along one axis, the first and the last tile that each tap touches, (tiles, tiles, G, K)."""

    first: Tensor
    last: Tensor

    @property
    def size(self) -> Tensor:
        """How many tiles it touches."""
        return (self.last - self.first + 1).clamp(min=0)


def boxes(place: Tensor, touches: Tensor, side: int) -> Boxes:
    """Of taps at north west cells (H, W, G, K) along one axis."""
    size = gpu.TILE

    def tiles(place: Tensor) -> Tensor:
        return place.unflatten(1, (-1, size)).unflatten(0, (-1, size))

    least = tiles(torch.where(touches, place, 2.0 * side)).amin((1, 3))
    most = tiles(torch.where(touches, place, -2.0 * side)).amax((1, 3))
    first, last = least.clamp(min=0) // size, (most + 1).clamp(max=side - 1) // size
    return Boxes(first, torch.where(most < -1, -1.0, last))


def window(found: Boxes, axis: int) -> Tensor:
    """How many tiles along an axis are looked at, the mean for each group."""
    across = found.first.shape[0]
    place = torch.arange(across)
    own = place.view(-1, 1, 1, 1) if axis == 0 else place.view(-1, 1, 1)
    before, after = (own - found.first).amax((0, 1, 3)), (found.last - own).amax((0, 1, 3))
    last = (place + before[:, None]).clamp(max=across - 1)
    first = (place - after[:, None]).clamp(min=0)
    return (last - first + 1).clamp(min=0).mean(1)


def main() -> None:
    """Count, print and write the table."""
    print(NOTE, "\n")
    torch.manual_seed(0)
    rows = []
    for side in SIDES:
        rows.append(count(side) | {"taps": reference.TAPS})
        print(rows[-1], flush=True)
    harness.write_table(harness.RESULTS / "gather.csv", rows)


if __name__ == "__main__":
    main()
