"""How fast `deform_sample` is on the CPU, beside two composites and the second-level cache.

Run it as `python benchmarks/ops/deform.py` from the repository.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import harness
from convflow.ops import deform_sample
from tests.tolerance import assert_close_rms

SHAPES = [(8, 16, 16, 12, 64), (2, 32, 32, 16, 72)]
MODES = ["forward", "forward+backward"]
TAPS = 9
LIMIT = "L2 limit"
NOTE = """\
Shapes are B x H x W x G x C with K = 9 taps, float32. Offsets: the 3 x 3 grid of a new FlowDCN,
dilated 6 g / G cells in group g, plus normal noise of half a cell.
"ratio" is the rival's time over ours, the median over rounds in which the rivals take turns.
"L2 limit" is the least time for the bytes below at the rate at which a numba loop on the same
threads reads 256 KiB per thread over and over, measured in the same rounds. Bytes of float32 per
position and group: forward 4 K C corners + 3 K offsets and weights + 2 C values and outputs;
backward 3 x 4 K C (corners read, their gradients read and written) + 6 K + 3 C.
Corners that hit the first-level cache can beat it."""


def draw(shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Upstream gradient, values, offsets and weights."""
    generator = torch.Generator().manual_seed(0)
    groups = shape[3]
    y, x = torch.meshgrid(*[torch.arange(-1.0, 2)] * 2, indexing="ij")
    dilation = torch.arange(1, groups + 1).view(-1, 1, 1) * 6 / groups
    offsets = 0.5 * torch.randn(*shape[:4], TAPS, 2, generator=generator)
    offsets += torch.stack((x, y), -1).view(TAPS, 2) * dilation
    grad, values = (torch.randn(shape, generator=generator) for _ in range(2))
    return grad, values, offsets, torch.randn(*shape[:4], TAPS, generator=generator)


def grid_sample(values: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """The composite over `F.grid_sample`."""
    batch, height, width, groups, channels = values.shape
    cells = _cells(offsets).permute(0, 3, 1, 2, 4, 5)
    grid = ((2 * cells + 1) / cells.new_tensor([width, height]) - 1).reshape(
        batch * groups, height * width, -1, 2
    )
    maps = values.permute(0, 3, 4, 1, 2).reshape(batch * groups, channels, height, width)
    factors = weights.permute(0, 3, 1, 2, 4).reshape(batch * groups, 1, height * width, -1)
    total = (F.grid_sample(maps, grid, align_corners=False) * factors).sum(-1)
    return total.view(batch, groups, channels, height, width).permute(0, 3, 4, 1, 2)


def gather(values: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """The composite over four gathers, all taps at once."""
    batch, height, width, groups, channels = values.shape
    maps = values.permute(0, 3, 1, 2, 4).reshape(batch, groups, height * width, channels)
    cells = _cells(offsets).permute(0, 3, 1, 2, 4, 5)
    low = cells.floor()
    fraction, low = cells - low, low.long()
    total = 0
    for right in (0, 1):
        for down in (0, 1):
            x, y = low[..., 0] + right, low[..., 1] + down
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            share_x = fraction[..., 0] if right else 1 - fraction[..., 0]
            share_y = fraction[..., 1] if down else 1 - fraction[..., 1]
            share = share_x * share_y * inside * weights.permute(0, 3, 1, 2, 4)
            cell = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).flatten(2).unsqueeze(-1)
            corner = maps.gather(2, cell.expand(-1, -1, -1, channels))
            total = total + (corner.view(*share.shape, channels) * share.unsqueeze(-1)).sum(-2)
    return total.permute(0, 2, 3, 1, 4)


RIVALS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "deform_sample": deform_sample,
    "grid_sample": grid_sample,
    "gather": gather,
}


def set_up(shape: tuple[int, ...], mode: str) -> Mapping[str, harness.Call]:
    """Calls by name, the last of which takes as long as the second-level cache needs at least."""
    grad, *inputs = draw(shape)
    if mode == "forward":
        calls: dict[str, harness.Call] = {n: partial(f, *inputs) for n, f in RIVALS.items()}
    else:
        leaves = [tensor.requires_grad_() for tensor in inputs]
        calls = {n: partial(_both, f, leaves, grad) for n, f in RIVALS.items()}
    positions, channels = int(np.prod(shape[:4])), shape[4]
    numbers = 4 * TAPS * channels + 3 * TAPS + 2 * channels
    if mode != "forward":
        numbers += 12 * TAPS * channels + 6 * TAPS + 3 * channels
    return calls | {LIMIT: _reader(4 * positions * numbers)}


def check(shape: tuple[int, ...]) -> None:
    """Raises AssertionError unless all rivals give the same outputs and gradients."""
    grad, *inputs = draw(shape)
    leaves = [tensor.requires_grad_() for tensor in inputs]
    ours = _both(deform_sample, leaves, grad)
    for rival in (grid_sample, gather):
        for one, other in zip(ours, _both(rival, leaves, grad), strict=True):
            assert_close_rms(one, other)


def _cells(offsets: Tensor) -> Tensor:
    y, x = torch.meshgrid(*map(torch.arange, offsets.shape[1:3]), indexing="ij")
    return torch.stack((x, y), -1)[:, :, None, None] + offsets


def _both(function: Callable[..., Tensor], leaves: list[Tensor], grad: Tensor) -> list[Tensor]:
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


@numba.njit(nogil=True, fastmath=True)
def _read(block, times):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for turn in range(times):
        for i in range(turn % 2, block.size):
            total += block[i]
    return total


def _reader(num_bytes: int) -> harness.Call:
    threads = torch.get_num_threads()
    blocks = [np.ones(2**18 // 4, np.float32) for _ in range(threads)]
    times = max(1, num_bytes // threads // blocks[0].nbytes)
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(_read, blocks, [times] * threads))


def main() -> None:
    """Check, measure, print and write the table."""
    try:
        for shape in SHAPES:
            check(shape)
    except AssertionError as error:
        raise SystemExit(f"the rivals disagree, so there is nothing to time: {error}") from error
    with torch.no_grad():
        forward = harness.measure(harness.Case("deform_sample", set_up, SHAPES, MODES[:1]))
    both = harness.measure(harness.Case("deform_sample", set_up, SHAPES, MODES[1:]))
    rows = sorted(forward + both, key=lambda row: row.shape, reverse=True)
    print(NOTE, "\n")
    print(f"{'shape':16}{'mode':18}{'rival':15}{'median':>9}{'10 % .. 90 %':>18}{'ratio':>8}")
    for row in rows:
        spread = f"{row.low_ms:.2f} .. {row.high_ms:.2f}"
        print(
            f"{row.shape:16}{row.mode:18}{row.rival:15}{row.median_ms:6.2f} ms{spread:>18}"
            f"{row.ratio:8.2f}"
        )
    path = harness.RESULTS / "deform_cpu.csv"
    harness.write(path, rows, numba=numba.__version__)
    print(f"\n{harness.machine()}\nwritten to {path}")


if __name__ == "__main__":
    main()
