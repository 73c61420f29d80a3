"""What the gradient of the values looks at, for maps of several sizes and as many pixels in all.

Run it as `python benchmarks/ops/gather.py` from the repository; it needs no GPU. Taps are drawn as
in `deform_gpu.py`, with one group of the greatest reach. Triton's interpreter runs the kernel that
finds which cells the taps of each tile reach; the rest is counted from what it found.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

import torch

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
    """Means of what one tile of cells needs, over all groups."""
    shape = (1, side, side, GROUPS, 1)
    _, *inputs = truth.inputs_of(shape, torch.float32, "cpu")
    plan = gpu._plan_for(*inputs, "zeros")
    boxes = torch.empty(*plan.programs, 4, plan.num_taps, dtype=torch.int32)
    spans = torch.empty(*plan.programs, 4, dtype=torch.int32)
    plan.tap_boxes(*gpu._tensors(*inputs)[1:], boxes, spans)
    across = -(-side // gpu.TILE)
    windows = spans.amax(2)[0]
    place = torch.arange(across)
    sides = []
    for towards, away in ((0, 1), (2, 3)):
        last = (place + windows[:, towards, None]).clamp(max=across - 1)
        first = (place - windows[:, away, None]).clamp(min=0)
        sides.append((last - first + 1).double().mean(1))
    least_x, most_x, least_y, most_y = boxes[0].unbind(2)

    def reached(least: torch.Tensor, most: torch.Tensor) -> torch.Tensor:
        """How many tiles along one axis each box touches."""
        first = least.clamp(min=0) // gpu.TILE
        return ((most + 1).clamp(max=side - 1) // gpu.TILE - first + 1).clamp(min=0)

    pairs = (reached(least_x, most_x) * reached(least_y, most_y)).double().sum() / least_x[
        ..., 0
    ].numel()
    edges = [tile * gpu.TILE for tile in range(across)]
    touched = torch.zeros(GROUPS)
    for first_y in edges:
        rows = (least_y < first_y + gpu.TILE) & (most_y + 1 >= first_y)
        for first_x in edges:
            columns = (least_x < first_x + gpu.TILE) & (most_x + 1 >= first_x)
            touched += (rows & columns).any(-1).sum(-1)
    return {
        "side": side,
        "tiles": across**2,
        "looked_at": round(float((sides[0] * sides[1]).mean()), 1),
        "multiplied": round(float(touched.mean()) / across**2, 1),
        "pairs": round(float(pairs), 1),
    }


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
