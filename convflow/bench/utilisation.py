"""Utilisation: a network's operations a second, beside those of one large matrix product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch

from convflow.bench.floor import TRIALS, fastest_of, other_engine
from convflow.bench.harness import BenchRow, Call, seconds

SIDES = {True: 1024, False: 8192}
"""Rows and columns of a square product's matrices, by whether the device is the CPU."""


class Workload(NamedTuple):
    """What a line of a table needs, and what it is held against.

    Attributes:
        operations: of one call, two for each multiply-accumulate.
        limit: the line of the product in the same arithmetic; of that line too.
    """

    operations: float
    limit: str


@dataclass(frozen=True)
class Rated(BenchRow):
    """A row of a network with what it needs and reaches.

    Attributes:
        images_per_s: the batch over the median.
        tflop: 10^12 operations that the call needs.
        utilisation: operations a second over those of the product, both by their medians.
    """

    images_per_s: float
    tflop: float
    utilisation: float


def product(device: torch.device, dtype: torch.dtype) -> Call:
    """Return a call of one matrix product, large enough that nothing else counts.

    On a CPU it is the fastest of two shapes by two engines: square or four times as tall as a
    square, by torch's product or by a 1x1 convolution. All take as many operations.
    """
    side, generator = SIDES[device.type == "cpu"], torch.Generator(device).manual_seed(0)
    shapes = [(side, side), (4 * side, side // 2)][: 2 if device.type == "cpu" else 1]
    calls: list[Call] = []
    for rows, inner in shapes:
        left, right = (
            torch.randn(count, inner, generator=generator, device=device).to(dtype)
            for count in (rows, inner)
        )
        calls.append(partial(torch.mm, left, right.t(), out=torch.empty_like(left)))
        calls += other_engine(torch.ops.aten.mm.default, (left, right.t()))
    return fastest_of(calls)


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations a second of that product, by its shortest time."""
    call = product(device, dtype)
    shortest = min(seconds(call, device) for _ in range(TRIALS))
    return 2.0 * SIDES[device.type == "cpu"] ** 3 / shortest


def rate(
    rows: Sequence[BenchRow], workloads: Mapping[str, Workload], device: torch.device
) -> list[Rated]:
    """Return rows with their utilisation; a product's line becomes the time of as many operations.

    Args:
        rows: of one shape and mode, timed in the same rounds; the shape begins with the batch.
        workloads: of every line, by its name.
        device: where the products ran.
    """
    count = 2.0 * SIDES[device.type == "cpu"] ** 3
    found, named = [], {row.rival: row for row in rows}
    for row in rows:
        operations, limit = workloads[row.rival]
        products = operations / count
        least = products * named[limit].median_ms
        if row.rival == limit:
            times = {f: products * getattr(row, f) for f in ("median_ms", "low_ms", "high_ms")}
            row = replace(row, **times, ratio=products * row.ratio)
        num_images = int(row.shape.partition("x")[0])
        found.append(
            Rated(
                **vars(row),
                images_per_s=1e3 * num_images / row.median_ms,
                tflop=operations / 1e12,
                utilisation=least / row.median_ms,
            )
        )
    return found
