"""Root mean square norm and modulation in one pass over memory on a CPU, forward and backward.

Zhang & Sennrich 2019, eq. 4. Its plain twin is `modulate` of an `RMSNorm` in `convflow.nn.norm`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from convflow.ops.inputs import is_transformed
from convflow.ops.threads import find_numba, share

LINE = 16
"""Numbers in a line of the caches, which must divide the channels."""
MIN_NUMBERS = 2**16
"""Numbers from which on a kernel is worth its call."""


def fits(x: Tensor, *vectors: Tensor) -> bool:
    """Return whether `normed` serves features: large, float32, on a CPU, not traced.

    Args:
        x: the features.
        vectors: what they are multiplied by and added to. Nor may they have tangents of forward
            mode, which a kernel would lose.
    """
    return (
        type(x) is Tensor  # not one without numbers
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.dim() > 2
        and x.numel() >= MIN_NUMBERS
        and x.shape[-1] % LINE == 0
        and not torch.compiler.is_compiling()
        and not torch.compiler.is_exporting()
        and find_numba()[0] is not None
        and not is_transformed(x, *vectors)
    )


def normed(
    x: Float[Tensor, "B *N D"],
    factor: Float[Tensor, "B D"],
    shift: Float[Tensor, "B D"],
    eps: float,
) -> Float[Tensor, "B *N D"]:
    """Return `x / root(mean of x^2 + eps) * factor + shift`.

    Args:
        x: features for which `fits` is true.
        factor: of each sample's vectors, after the norm.
        shift: added to each sample's vectors.
        eps: added to the mean of squares.

    Returns:
        The features, contiguous, in float32, or in bfloat16 where autocast would round them to it
        at the next product. They differentiate once.
    """
    out: Tensor = _Normed.apply(x, factor.float(), shift.float(), eps)
    return out


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor, shift: Tensor, eps: float) -> Tensor:
        from convflow.ops.norm_kernels import PIECE_ROWS, forward_kernel

        ctx.save_for_backward(x, factor)
        ctx.eps, rows = np.float32(eps), x.flatten(1, -2)
        ctx.count = len(x) * -(-rows.shape[1] // PIECE_ROWS)
        out = torch.empty(rows.shape, dtype=_dtype_of_products())
        given = *_arrays(rows, factor, shift), ctx.eps, *_arrays(out)
        share(forward_kernel(), given, ctx.count)
        return out.view(x.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from convflow.ops.norm_kernels import backward_kernel

        x, factor = ctx.saved_tensors
        given = _arrays(grad.flatten(1, -2), x.flatten(1, -2), factor)
        grad_x, sums = torch.empty(given[1].shape), torch.empty(2, ctx.count, x.shape[-1])
        found = grad_x.numpy(), *_arrays(*sums)
        share(backward_kernel(), (*given, ctx.eps, *found), ctx.count)
        return grad_x.view(x.shape), *sums.unflatten(1, (len(x), -1)).sum(2), None


def _dtype_of_products() -> torch.dtype:
    half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return torch.bfloat16 if half else torch.float32


def _arrays(*tensors: Tensor) -> list[Any]:
    """Return tensors as kernels take them: bfloat16 as whole numbers of 16 bits."""
    flat = [tensor.detach().contiguous() for tensor in tensors]
    return [(t.view(torch.int16) if t.dtype == torch.bfloat16 else t).numpy() for t in flat]
