"""`deform_sample` beside two composites of PyTorch's operators, and the limit of the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from math import prod

import numpy as np
import torch
from torch import Tensor

from convflow.bench.agreement import TOLERANCE, require_agreement
from convflow.bench.harness import Call
from convflow.ops import deform_sample
from convflow.ops.deform.exported import by_grid_sample, cells
from convflow.ops.deform.reference import TAPS
from convflow.ops.threads import find_numba
from convflow.types import InputError, Size

OpShape = tuple[int, ...]
"""B, H, W, G and C of the operator."""

OP_SHAPES: list[OpShape] = [(8, 16, 16, 12, 64), (2, 32, 32, 16, 72)]
"""FlowDCN-B/2 at 256 pixels and FlowDCN-XL/2 at 512."""

OP_MODES = ["forward", "forward+backward"]
LIMIT_BY_DEVICE = {True: "L2 limit", False: "copy limit"}
"""By whether the device is the CPU."""

NOTE = """\
Shapes are B x H x W x G x C with K = 9 taps. Offsets: the 3 x 3 grid of a new FlowDCN,
dilated 6 g / G cells in group g, plus normal noise of half a cell.
"ratio" is the rival's time over ours, the median over rounds in which the rivals take turns.
"L2 limit" is the least time for the bytes below at the rate at which a numba loop on the same
threads reads 256 KiB per thread over and over, measured in the same rounds. Bytes of float32 per
position and group: forward 4 K C corners + 3 K offsets and weights + 2 C values and outputs;
backward 3 x 4 K C (corners read, their gradients read and written) + 6 K + 3 C.
Corners that hit the first-level cache can beat it.
"copy limit", on other devices, is the time in which PyTorch copies as many bytes as have to be
read or written once: values, offsets, weights, outputs and, backward, all of them and the
gradients again."""


def draw(
    shape: OpShape, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Tensor, ...]:
    """Return upstream gradient, values, offsets and weights; the latter two are float32."""
    generator = torch.Generator().manual_seed(0)
    groups = shape[3]
    y, x = torch.meshgrid(*[torch.arange(-1.0, 2)] * 2, indexing="ij")
    dilation = torch.arange(1, groups + 1).view(-1, 1, 1) * 6 / groups
    offsets = 0.5 * torch.randn(*shape[:4], TAPS, 2, generator=generator)
    offsets += torch.stack((x, y), -1).view(TAPS, 2) * dilation
    grad, values = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    weights = torch.randn(*shape[:4], TAPS, generator=generator)
    return tuple(tensor.to(device) for tensor in (grad, values, offsets, weights))


def sample_by_gather(values: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Return what `deform_sample` does through four gathers, all taps at once."""
    batch, height, width, groups, channels = values.shape
    maps = values.permute(0, 3, 1, 2, 4).reshape(batch, groups, height * width, channels)
    places = cells(offsets).permute(0, 3, 1, 2, 4, 5)
    low = places.floor()
    fraction, low = places - low, low.long()
    total = torch.zeros((), device=values.device)
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
    return total.permute(0, 2, 3, 1, 4).to(values.dtype)


RIVALS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "deform_sample": deform_sample,
    "grid_sample": by_grid_sample,
    "gather": sample_by_gather,
}


def shapes_of(size: Size | None = None, batch: int | None = None) -> list[OpShape]:
    """Return `OP_SHAPES`, all with another height and width or batch where these are given.

    Raises:
        InputError: a side of no cells.
    """
    if size is not None and min(size) < 1:
        raise InputError(f"--size: expected sides of at least 1 cell, got {size[0]}x{size[1]}")
    return [(batch or shape[0], *(size or shape[1:3]), *shape[3:]) for shape in OP_SHAPES]


def set_up(
    shape: OpShape,
    mode: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Mapping[str, Call]:
    """Return calls by name, the last of which takes as long as the machine needs at least.

    On the CPU there is none where numba is missing.
    """
    grad, *inputs = draw(shape, device, dtype)
    if mode == OP_MODES[0]:
        calls: dict[str, Call] = {n: partial(f, *inputs) for n, f in RIVALS.items()}
    else:
        leaves = [tensor.requires_grad_() for tensor in inputs]
        calls = {n: partial(_both, f, leaves, grad) for n, f in RIVALS.items()}
    on_cpu = grad.device.type == "cpu"
    if not on_cpu:
        once, again = (sum(t.nbytes for t in some) for some in ((grad, *inputs), inputs))
        num_bytes = once if mode == OP_MODES[0] else 2 * once + again
        calls[LIMIT_BY_DEVICE[on_cpu]] = _copier(num_bytes, grad.device)
    elif find_numba()[0] is not None:
        calls[LIMIT_BY_DEVICE[on_cpu]] = _reader(4 * prod(shape[:4]) * _numbers(shape[4], mode))
    return calls


def check_rivals(
    shape: OpShape, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> None:
    """Raise Disagreement unless all rivals give the same outputs and gradients."""
    grad, *inputs = draw(shape, device, dtype)
    leaves = [tensor.requires_grad_() for tensor in inputs]
    (first, ours), *others = ((name, _both(f, leaves, grad)) for name, f in RIVALS.items())
    parts = ("output", *(f"gradient of {name}" for name in ("values", "offsets", "weights")))
    for name, theirs in others:
        for part, one, other in zip(parts, ours, theirs, strict=True):
            require_agreement(f"{first} and {name}, {part}", one, other, TOLERANCE[dtype])


def _numbers(channels: int, mode: str) -> int:
    """Return how many numbers pass through the cache for a position and group, see `NOTE`."""
    numbers = 4 * TAPS * channels + 3 * TAPS + 2 * channels
    if mode != OP_MODES[0]:
        numbers += 12 * TAPS * channels + 6 * TAPS + 3 * channels
    return numbers


def _both(function: Callable[..., Tensor], leaves: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def _copier(num_bytes: int, device: torch.device) -> Call:
    """Return a call that reads and writes so many bytes together."""
    source, target = (
        torch.ones(num_bytes // 2, dtype=torch.uint8, device=device) for _ in range(2)
    )
    return partial(target.copy_, source)


def _reader(num_bytes: int) -> Call:
    """Return a call that reads so many bytes from the second-level caches of all threads."""
    threads = torch.get_num_threads()
    blocks = [np.ones(2**18 // 4, np.float32) for _ in range(threads)]
    times = max(1, num_bytes // threads // blocks[0].nbytes)
    read, pool = _compiled_reading(), ThreadPoolExecutor(threads)
    return lambda: list(pool.map(read, blocks, [times] * threads))


@cache
def _compiled_reading() -> Callable[[np.ndarray, int], np.float32]:
    import numba

    @numba.njit(nogil=True, fastmath=True)
    def read(block, times):  # type: ignore[no-untyped-def]
        total = np.float32(0)
        for turn in range(times):
            for i in range(turn % 2, block.size):
                total += block[i]
        return total

    return read
