"""A network's floor: the time of its matrix products, convolutions and attentions alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from convflow.bench.harness import Call


class Spec(NamedTuple):
    """A tensor without its numbers."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class Products(TorchDispatchMode):
    """Writes down every matrix product, convolution and attention that is called, gradients too."""

    KINDS = re.compile(
        r"aten::(mm|addmm|bmm|baddbmm|convolution|_scaled_dot_product.*?)(_backward)?"
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
        calls = [
            (f, *tree_map_only(Spec, draw, (a, k), is_leaf=_is_spec)) for f, a, k in self.calls
        ]

        def floor() -> None:
            with torch.no_grad():
                for function, args, kwargs in calls:
                    function(*args, **kwargs)

        return floor


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
