"""Feed-forward layers applied at every position (Shazeer 2020, eq. 6: SwiGLU)."""

from __future__ import annotations

from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn

from convflow.nn.linear import Linear
from convflow.types import check_name

MLPName = Literal["swiglu", "gelu"]
ActivationName = Literal["gelu", "relu"]


class SwiGLU(nn.Module):
    """`out(silu(gate(x)) * up(x))` without biases, hidden width two thirds of four times D."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 8 * width // 3
        self.gate = Linear(width, hidden, bias=False)
        self.up = Linear(width, hidden, bias=False)
        self.out = Linear(hidden, width, bias=False)
        for layer in (self.gate, self.up, self.out):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        """Apply the same gated network to every position."""
        return self.out(nn.functional.silu(self.gate(x)) * self.up(x))


class MLP(nn.Sequential):
    """Two biased linear layers around an activation."""

    def __init__(self, width: int, hidden: int, activation: nn.Module) -> None:
        super().__init__(create_linear(width, hidden), activation, create_linear(hidden, width))


class GELUMLP(MLP):
    """An `MLP` with a tanh-approximated GELU and a hidden width of `ratio` times D."""

    def __init__(self, width: int, ratio: float = 4.0) -> None:
        super().__init__(width, int(ratio * width), nn.GELU("tanh"))


def create_linear(in_width: int, out_width: int) -> Linear:
    """Return a linear layer with Xavier-uniform weights and a bias of zero."""
    linear = Linear(in_width, out_width)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def create_activation(name: ActivationName) -> nn.Module:
    """Return the activation `name`; "gelu" is the exact one."""
    check_name("activation", name, get_args(ActivationName))
    return nn.GELU() if name == "gelu" else nn.ReLU()


def create_mlp(name: MLPName, width: int) -> nn.Module:
    """Return the feed-forward layer `name` for features of `width` channels."""
    check_name("mlp", name, get_args(MLPName))
    return SwiGLU(width) if name == "swiglu" else GELUMLP(width)
