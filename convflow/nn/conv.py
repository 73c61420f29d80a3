"""Convolutional layers on maps with channels last, as the other layers have them.

DiCo's module and its compact channel attention: Ai et al. 2025 (arXiv 2505.11196), eq. 3.
Squeeze and excitation: Hu et al. 2018, eq. 2-4. Global response norm: Woo et al. 2023, eq. 1-3.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from convflow.nn.dense import ActivationName, create_activation, create_linear
from convflow.nn.frames import Temporal, channels_first, channels_last, create_temporal, per_frame
from convflow.nn.norm import Condition, Modulation, modulate, widen
from convflow.ops.depthwise.op import depthwise_conv, gains
from convflow.types import InputError, check_name

AttentionName = Literal["cca", "se", "none"]
Backend = Literal["library", "triton"]

KERNELS = (3, 5, 7)
SE_REDUCTION, SE_LEAST = 16, 8


class Conv(nn.Conv2d):
    """A convolution that keeps height and width, on features with channels last.

    It hands torch the same memory as a channels-first tensor in `torch.channels_last` format, so
    that nothing is copied between this and the dense layers. torch 2.13 compiles that once for all
    sizes when sampling; training needs `torch.compile(..., dynamic=False)`, a graph for each size.

    Attributes:
        backend: what runs a depthwise convolution, see `use_depthwise`; not in the state dict.
    """

    backend: Backend = "library"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        if kernel_size % 2 == 0:
            raise InputError(
                f"expected an odd kernel_size, which has a middle, got {kernel_size}; "
                f"try {kernel_size + 1}"
            )
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            padding=kernel_size // 2,
            groups=groups,
            bias=bias,
        )
        nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "B *F H W C"]) -> Float[Tensor, "B *F H W D"]:
        """Return the filtered features of each frame; outside the map everything counts zero."""
        return per_frame(self.filtered, x)

    def filtered(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W D"]:
        """Return the filtered features of maps."""
        own = self.groups == self.in_channels and gains(x, self.weight)
        if own or self.backend == "triton":
            return depthwise_conv(as_autocast(x), self.weight, self.bias)
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ConvStem(Conv):
    """A 3x3 convolution from an image with channels first to features with channels last."""

    def forward(self, x: Float[Tensor, "B C *F H W"]) -> Float[Tensor, "B *F H W D"]:
        """Return one vector for each pixel."""
        return super().forward(channels_last(x)).contiguous()


class ChannelAttention(nn.Module):
    """Compact channel attention: `x * sigmoid(linear(mean of x over the map))`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score: nn.Module = create_linear(width, width)

    def forward(self, x: Float[Tensor, "B *F H W D"]) -> Float[Tensor, "B *F H W D"]:
        """Scale every channel of every frame by one number in (0, 1)."""
        return x * on_map(self.score(x.mean((-3, -2))).sigmoid())


class SqueezeExcitation(ChannelAttention):
    """Channel attention whose score passes a sixteenth of the channels, and eight at least."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        hidden = max(SE_LEAST, width // SE_REDUCTION)
        self.score = nn.Sequential(
            create_linear(width, hidden), nn.ReLU(), create_linear(hidden, width)
        )


class ConvMix(nn.Module):
    """DiCo's module: mix channels, each channel with its neighbourhood, weigh, mix again.

    `linear -> depthwise convolution -> activation -> channel attention -> linear`; of videos a
    convolution along time follows the depthwise one, and all else is of each frame.

    Args:
        width: feature channels D.
        kernel_size: side of the depthwise kernel: 3 as published; 5 and 7 are its ablations.
        attention: "cca" as published, "se" or "none" (ablations).
        activation: "gelu" as published, or "relu" (ablation).
        temporal: "conv" for videos, "none" for pictures.
    """

    def __init__(
        self,
        width: int,
        kernel_size: int = 3,
        attention: AttentionName = "cca",
        activation: ActivationName = "gelu",
        temporal: Temporal = "none",
    ) -> None:
        super().__init__()
        if kernel_size not in KERNELS:
            raise InputError(f"expected a kernel_size of 3, 5 or 7, got {kernel_size}")
        self.expand = create_linear(width, width)
        self.depthwise = Conv(width, width, kernel_size, groups=width)
        self.temporal = create_temporal(temporal, width)
        self.activation = create_activation(activation)
        self.attention = create_attention(attention, width)
        self.out = create_linear(width, width)

    def forward(self, x: Float[Tensor, "B *F H W D"]) -> Float[Tensor, "B *F H W D"]:
        """Return the mixed features."""
        gathered = self.temporal(self.depthwise(self.expand(x)))
        return self.out(self.attention(self.activation(gathered)))


class ResponseNorm(nn.Module):
    """Global response norm: every channel competes with the others of its sample.

    With `g` the root of the summed squares of a channel over the map, and `n` that over its mean
    over the channels: `gamma * x * n + beta + x`. A new one changes nothing.
    """

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(width))
        self.beta = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "B *F H W D"]) -> Float[Tensor, "B *F H W D"]:
        """Return the recalibrated features in the dtype of `x`; sums are formed in float32."""
        energy = widen(x).flatten(-3, -2).square().sum(-2)
        response = energy.clamp_min(torch.finfo(energy.dtype).tiny).sqrt()  # a slope at zero too
        share = response / (response.mean(-1, keepdim=True) + self.eps)
        return (x * (1 + on_map(self.gamma * share)) + self.beta).to(x.dtype)


class ConvHead(nn.Module):
    """Norm, modulate and convolve features to a prediction with channels first; zero at first."""

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__()
        self.width = width
        self.modulation = Modulation(width, 2)
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.out = Conv(width, out_channels)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Float[Tensor, "B *F H W D"], c: Condition) -> Float[Tensor, "B C *F H W"]:
        """Return the prediction."""
        shift, scale = self.modulation(c)
        return channels_first(self.out(modulate(self.norm(x), shift, scale)))


def on_map(vector: Float[Tensor, "B *F D"]) -> Float[Tensor, "B *F 1 1 D"]:
    """Return a vector of each frame beside all positions of its map."""
    return vector[..., None, None, :]


def use_depthwise(model: nn.Module, backend: Backend) -> None:
    """Choose what runs the depthwise convolutions of a model: every `Conv` of a group per channel.

    The library is the default because nothing was measured on a GPU yet.

    Args:
        model: changed in place; its weights and checkpoints stay as they are.
        backend: "library", torch's own convolution, or "triton", `convflow.ops.depthwise_conv`,
            which has kernels for GPUs. Where gradients are wanted on a CPU, kernels of 5x5 and more
            run through it in any case.

    Raises:
        InputError: the name is unknown, or the model has no depthwise convolution.
    """
    check_name("backend", backend, get_args(Backend))
    found = [
        layer
        for layer in model.modules()
        if isinstance(layer, Conv) and layer.groups == layer.in_channels == layer.out_channels
    ]
    if not found:
        raise InputError(
            f"expected a model with depthwise convolutions, got {type(model).__name__} without; "
            "DiCo and FCDM have them"
        )
    for layer in found:
        layer.backend = backend


def as_autocast(x: Tensor) -> Tensor:
    """Return `x` in the dtype in which autocast, where it is on, runs torch's convolutions."""
    kind = x.device.type
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return x
    return x.to(torch.get_autocast_dtype(kind))


def create_attention(name: AttentionName, width: int) -> nn.Module:
    """Return the channel attention `name` for features of `width` channels."""
    check_name("attention", name, get_args(AttentionName))
    if name == "none":
        return nn.Identity()
    return ChannelAttention(width) if name == "cca" else SqueezeExcitation(width)
