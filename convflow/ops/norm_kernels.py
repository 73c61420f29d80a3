"""Root mean square norm, scale and shift in one pass over memory, as numba kernels.

Only `norm.py` imports this file, because importing it imports numba.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from convflow.ops import vectors as v
from convflow.ops.vectors import LANES

PIECE_ROWS = 32
"""Most vectors of a piece of work; all of them belong to one sample."""


@functools.cache
def forward_kernel() -> Callable[..., int]:
    """Kernel(x, factor, shift, eps, out, worker, start, stop).

    It fills `out` (B, N, D) for some pieces, counted over samples, then `PIECE_ROWS` vectors each,
    with `x / root(mean of x^2 + eps) * factor + shift`. `factor` and `shift` are (B, D), and
    `LANES` divides D. All are contiguous float32; `out` may be the bits of bfloat16.
    """

    def forward(x, factor, shift, eps, out, worker, start, stop):
        _, N, D = x.shape
        groups = -(-N // PIECE_ROWS)
        for piece in range(start, stop):
            sample, first = piece // groups, piece % groups * PIECE_ROWS
            for n in range(first, min(first + PIECE_ROWS, N)):
                _norm(x, (sample * N + n) * D, factor, shift, sample * D, eps, out, D)

    return v.compiled(forward)


@functools.cache
def backward_kernel() -> Callable[..., int]:
    """Kernel(grad, x, factor, eps, grad_x, grad_factor, grad_shift, worker, start, stop).

    It fills the gradients for some pieces, see `forward_kernel`: `grad_x` (B, N, D), and the sums
    of the other two over each piece's vectors, (pieces, D). `grad` may be the bits of bfloat16.
    """

    def backward(grad, x, factor, eps, grad_x, grad_factor, grad_shift, worker, start, stop):
        _, N, D = x.shape
        groups = -(-N // PIECE_ROWS)
        for piece in range(start, stop):
            sample, first = piece // groups, piece % groups * PIECE_ROWS
            v.clear(grad_factor, piece * D, D)
            v.clear(grad_shift, piece * D, D)
            for n in range(first, min(first + PIECE_ROWS, N)):
                at = (sample * N + n) * D
                _slope(
                    grad, x, at, factor, sample * D, eps, grad_x, grad_factor, grad_shift,
                    piece * D, D,
                )  # fmt: skip

    return v.compiled(backward)


@v.inlined
def _norm(b, x, at, factor, shift, sample, eps, out, D):
    """Norm, scale and shift one vector."""
    normed = _normed(b, x, at, eps, D)[0]

    def body(place: Any) -> None:
        own = _at(b, factor, sample, place), _at(b, shift, sample, place)
        v.store(b, v.fma(b, normed(place), *own), out, b.add(at, place))

    _over(b, D, body)


@v.inlined
def _slope(b, grad, x, at, factor, sample, eps, grad_x, grad_factor, grad_shift, sums, D):
    """Gradients of one vector; those of factor and shift are added."""
    normed, scale = _normed(b, x, at, eps, D)

    def inner(place: Any) -> Any:
        return b.fmul(_at(b, grad, at, place), _at(b, factor, sample, place))

    along = _mean(b, D, lambda place: b.fmul(inner(place), normed(place)))

    def body(place: Any) -> None:
        slope, one = _at(b, grad, at, place), normed(place)
        for part, target in ((b.fmul(slope, one), grad_factor), (slope, grad_shift)):
            v.store(b, b.fadd(_at(b, target, sums, place), part), target, b.add(sums, place))
        across = b.fsub(inner(place), b.fmul(one, along))
        v.store(b, b.fmul(across, scale), grad_x, b.add(at, place))

    _over(b, D, body)


def _normed(b, x, at, eps, D):
    """From a place to the normed numbers of a vector there; and what they are multiplied by."""

    def square(place: Any) -> Any:
        one = _at(b, x, at, place)
        return b.fmul(one, one)

    variance = b.fadd(_mean(b, D, square), v.spread(b, eps, LANES))
    root = v.call(b, f"llvm.sqrt.v{LANES}f32", variance.type, variance)
    scale = b.fdiv(v.constant(1.0, LANES), root)
    return lambda place: b.fmul(_at(b, x, at, place), scale), scale


def _mean(b, D, part):
    """The mean over a vector of what `part` tells for each place, in all lanes."""
    total = cgutils.alloca_once(b, ir.VectorType(v.FLOAT, LANES))
    b.store(v.constant(0.0, LANES), total)
    _over(b, D, lambda place: b.store(b.fadd(b.load(total), part(place)), total))
    whole = v.total(b, ir.Constant(v.FLOAT, 0.0), b.load(total))
    return v.spread(b, b.fdiv(whole, b.sitofp(D, v.FLOAT)), LANES)


def _over(b, D, body):
    """Call `body` with the start of every `LANES` numbers of a vector."""
    with cgutils.for_range(b, b.sdiv(D, v.index(LANES))) as loop:
        body(b.mul(loop.index, v.index(LANES)))


def _at(b, array, first, place):
    return v.load(b, array, b.add(first, place), LANES)
