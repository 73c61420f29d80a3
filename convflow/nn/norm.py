"""Normalisation and adaptive modulation.

Root mean square norm: Zhang & Sennrich 2019, eq. 4. Adaptive layer norm: Peebles & Xie 2023,
section 3.2 (adaLN-Zero).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeVar, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from convflow.nn.linear import Linear
from convflow.ops.norm import fits, normed
from convflow.types import check_name

NormName = Literal["rms", "layer"]


class WithText(NamedTuple):
    """What time and text tell a block of each sample.

    Attributes:
        vector: of the time, and of the text as a whole.
        tokens: of the text, to which a block may attend.
        mask: True where there is a token, False where there is padding.
    """

    vector: Float[Tensor, "B D"]
    tokens: Float[Tensor, "B L E"]
    mask: Bool[Tensor, "B L"]


Condition = Float[Tensor, "B D"] | WithText
"""What time and label, or time and text, tell a block of each sample."""

AnyCondition = TypeVar("AnyCondition", Tensor, WithText)


class RMSNorm(nn.Module):
    """Divide each feature vector by its root mean square, in float32, and scale per channel."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        """Return `x / rms(x) * weight` in the dtype of `x`."""
        full = widen(x)
        scale = torch.rsqrt(full.square().mean(-1, keepdim=True) + self.eps)
        return (full * scale * self.weight).to(x.dtype)


def widen(x: Tensor) -> Tensor:
    """Return `x` in float32, or in float64 if it is that already."""
    return x if x.dtype == torch.float64 else x.float()


def residual(x: Tensor) -> Tensor:
    """Return `x` as sums over blocks hold it: in float32 under autocast, else in its own dtype."""
    kind = x.device.type  # of tensors without numbers there is none
    autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return x.float() if autocast else x


def add(condition: AnyCondition, vector: Float[Tensor, "B D"]) -> AnyCondition:
    """Return a condition with a vector of each sample added to its own."""
    if isinstance(condition, WithText):
        return condition._replace(vector=condition.vector + vector)
    return condition + vector


def create_norm(name: NormName, width: int) -> nn.Module:
    """Return the norm `name` over the last axis, with a learned scale per channel."""
    check_name("norm", name, get_args(NormName))
    return RMSNorm(width) if name == "rms" else nn.LayerNorm(width, eps=1e-6)


def modulate(
    x: Float[Tensor, "B *N D"], shift: Float[Tensor, "B D"], scale: Float[Tensor, "B D"]
) -> Float[Tensor, "B *N D"]:
    """Return `x * (1 + scale) + shift`, with one shift and scale per sample and channel."""
    return torch.addcmul(per_sample(shift, x), x, 1 + per_sample(scale, x))


def modulated_norm(
    norm: nn.Module,
    x: Float[Tensor, "B *N D"],
    shift: Float[Tensor, "B D"],
    scale: Float[Tensor, "B D"],
) -> Float[Tensor, "B *N D"]:
    """Return `modulate(norm(x), shift, scale)`, in one pass over memory for a plain `RMSNorm`."""
    hooked = norm._forward_hooks or norm._forward_pre_hooks
    if type(norm) is not RMSNorm or hooked or not fits(x, shift, scale):
        return modulate(norm(x), shift, scale)
    return normed(x, norm.weight.float() * (1 + scale.float()), shift, norm.eps)


def gated(
    x: Float[Tensor, "B *N D"], gate: Float[Tensor, "B D"], update: Float[Tensor, "B *N D"]
) -> Float[Tensor, "B *N D"]:
    """Return `x + gate * update` in one pass, with one gate per sample and channel."""
    return torch.addcmul(x, per_sample(gate, x), update)


def per_sample(vector: Float[Tensor, "B D"], like: Float[Tensor, "B *N D"]) -> Tensor:
    """Return `vector` with axes of length one where `like` has its positions."""
    return vector.view(vector.shape[0], *(1,) * (like.dim() - 2), vector.shape[1])


class Modulation(nn.Sequential):
    """adaLN-Zero: a condition vector becomes `count` vectors per sample, all zero at first."""

    def __init__(self, width: int, count: int) -> None:
        linear = Linear(width, count * width)
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        super().__init__(nn.SiLU(), linear)
        self.width, self.count = width, count

    def forward(self, condition: Condition) -> tuple[Tensor, ...]:
        """Return `count` tensors of shape (B, D)."""
        vector = condition.vector if isinstance(condition, WithText) else condition
        return super().forward(vector).chunk(self.count, dim=-1)
