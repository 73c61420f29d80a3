"""Dense layers that take the fastest of torch's matrix products on this processor."""

from __future__ import annotations

import math
from functools import cache
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from convflow.distributed import processor
from convflow.types import check_name

Engine = Literal["blas", "convolution"]

MIN_CONVOLUTION = 2**25
"""Multiply-adds of a product from which on a convolution is worth its set-up."""


class Linear(nn.Linear):
    """`nn.Linear`, computed by the engine that multiplies fastest on this processor.

    MKL, the BLAS of torch's builds for x86, keeps AMD's processors from half of their AVX-512 rate.
    oneDNN does not: a 1x1 convolution on channels-last memory is the same product, on the same
    memory, with gradients. Parameters, checkpoints and everything on a GPU are those of
    `nn.Linear`.

    Attributes:
        engine: what computes large float32 products on a CPU, see `use_engine`; not in the state
            dict.
    """

    engine: Engine

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.engine = fastest_engine()[0]

    def forward(self, x: Float[Tensor, "*N C"]) -> Float[Tensor, "*N D"]:
        """Return `x @ weight.T + bias`."""
        return linear(x, self.weight, self.bias, self.engine)


def linear(
    x: Float[Tensor, "*N C"],
    weight: Float[Tensor, "D C"],
    bias: Float[Tensor, " D"] | None = None,
    engine: Engine = "blas",
) -> Float[Tensor, "*N D"]:
    """Return `x @ weight.T + bias`, as `torch.nn.functional.linear` does.

    Args:
        x: features, channels last.
        weight: as of `nn.Linear`.
        bias: likewise, or None.
        engine: "convolution" sends products in float32 on a CPU, of at least `MIN_CONVOLUTION`
            multiply-adds, through a 1x1 convolution. All others take BLAS.
    """
    if engine == "blas" or not _gains(x, weight):
        return F.linear(x, weight, bias)
    # Compiled code copies channels-last features that have an axis of length one.
    rows = math.prod(x.shape[:-1])
    batch, width = (2, 2) if rows % 4 == 0 else (1, 1)
    columns = x.reshape(batch, -1, width, x.shape[-1])
    out = F.conv2d(columns.permute(0, 3, 1, 2), weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


def _gains(x: Tensor, weight: Tensor) -> bool:
    if x.device.type != "cpu" or x.dtype != torch.float32 or weight.dtype != torch.float32:
        return False
    if torch.is_autocast_enabled("cpu") or torch.compiler.is_exporting():
        return False
    return math.prod(x.shape[:-1]) * weight.numel() >= MIN_CONVOLUTION


@cache
def fastest_engine() -> tuple[Engine, str]:
    """Return what multiplies fastest on this machine's CPU, and why.

    The answer depends on the processor and on torch's build alone, so that every run on a machine
    computes with the same engine.
    """
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return "blas", "torch was built without MKL or without oneDNN"
    if "AuthenticAMD" not in processor():
        return "blas", "MKL is at home on this processor"
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return "blas", "AMD without AVX-512"
    return "convolution", "AMD with AVX-512, which oneDNN uses and MKL does not"


def use_engine(model: nn.Module, engine: Engine) -> None:
    """Choose what computes the dense layers of a model on a CPU.

    Args:
        model: changed in place; its weights and checkpoints stay as they are.
        engine: "blas", or "convolution", which calls oneDNN for large products in float32.

    Raises:
        InputError: the name is unknown.
    """
    check_name("engine", engine, get_args(Engine))
    for layer in model.modules():
        if isinstance(layer, Linear):
            layer.engine = engine
