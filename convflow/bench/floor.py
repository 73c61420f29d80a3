"""A network's floor: the time of its matrix products, convolutions and attentions alone.

On a CPU each large product takes the faster of two engines, whichever the network takes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from convflow.bench.harness import Call, seconds
from convflow.nn.linear import MIN_CONVOLUTION

ATEN = torch.ops.aten
TRIALS = 3


class Spec(NamedTuple):
    """A tensor without its numbers."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class Products(TorchDispatchMode):
    """Writes down every matrix product, convolution and attention that is called, gradients too."""

    KINDS = re.compile(
        r"(aten::(mm|addmm|bmm|baddbmm|convolution|_scaled_dot_product.*?)|convflow::depthwise_conv)"
        r"(_backward)?"
    )

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., object], Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.KINDS.fullmatch(func._schema.name):
            self.calls.append((func, *tree_map_only(Tensor, _spec, (args, kwargs))))
        return func(*args, **kwargs)

    def replay(self) -> Call:
        """Return a call that repeats them all on random numbers of the same shapes and strides.

        Inputs of one shape are one tensor, so that it is a little too fast.
        """
        draw = cache(_draw)
        fastest: dict[str, Call] = {}
        calls = []
        with torch.no_grad():
            for function, specs, more in self.calls:
                args, kwargs = tree_map_only(Spec, draw, (specs, more), is_leaf=_is_spec)
                call: Call = partial(function, *args, **kwargs)
                if (key := f"{function} {specs} {more}") not in fastest:
                    fastest[key] = fastest_of([call, *other_engine(function, args)])
                calls.append(fastest[key])

        def floor() -> None:
            with torch.no_grad():
                for call in calls:
                    call()

        return floor


def other_engine(function: Callable[..., object], args: Sequence[Any]) -> list[Call]:
    """Return the product of a call by the other engine of a CPU; an empty list if it has none.

    A matrix product becomes a 1x1 convolution on channels-last memory. Such a convolution and its
    gradients become matrix products. Products of fewer than `MIN_CONVOLUTION` multiply-adds keep
    their engine.
    """
    if function in (ATEN.mm.default, ATEN.addmm.default):
        left, right = args[-2:]
        bias = args[0] if len(args) == 3 else None
        columns = left[None, None].permute(0, 3, 1, 2)  # channels last, no copy
        weight = right.t()[:, :, None, None]
        return [partial(F.conv2d, columns, weight, bias)] if _is_large(left, weight) else []
    if function not in (ATEN.convolution.default, ATEN.convolution_backward.default):
        return []
    forward = function is ATEN.convolution.default
    x, weight, bias, stride = args[:4] if forward else args[1:5]  # of gradients, sizes of the bias
    if x.dim() != 4 or weight.shape[1:] != (x.shape[1], 1, 1) or set(stride) != {1}:
        return []
    rows, matrix = x.permute(0, 2, 3, 1).flatten(0, 2), weight.flatten(1)
    if not _is_large(rows, weight):
        return []
    if forward:
        return [partial(F.linear, rows, matrix, bias)]
    slope = args[0].permute(0, 2, 3, 1).flatten(0, 2)
    return [partial(_gradients, slope, rows, matrix, bool(bias and bias[0]))]


def _gradients(slope: Tensor, rows: Tensor, matrix: Tensor, has_bias: bool) -> list[Tensor]:
    bias = [slope.sum(0)] if has_bias else []
    return [slope @ matrix, slope.t() @ rows, *bias]


def _is_large(rows: Tensor, weight: Tensor) -> bool:
    return rows.device.type == "cpu" and len(rows) * weight.numel() >= MIN_CONVOLUTION


def fastest_of(calls: Sequence[Call]) -> Call:
    """Return the call that takes the least time on the CPU; one alone is not made."""
    return min(calls, key=least_seconds) if len(calls) > 1 else calls[0]


def least_seconds(call: Call) -> float:
    """Return the shortest of a few calls on the CPU."""
    return min(seconds(call, torch.device("cpu")) for _ in range(TRIALS))


def _spec(tensor: Tensor) -> Spec:
    return Spec(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)


def _is_spec(tree: object) -> bool:
    return isinstance(tree, Spec)


def _draw(spec: Spec) -> Tensor:
    generator = torch.Generator(spec.device).manual_seed(0)
    tensor = torch.empty_strided(*spec[:2], dtype=spec.dtype, device=spec.device)
    if not tensor.is_floating_point():
        return tensor.zero_()
    return tensor.normal_(generator=generator)
