"""Feed-forward layers applied at every position (Shazeer 2020, eq. 6: SwiGLU)."""

from __future__ import annotations

from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn

from convflow.types import InputError, unknown_name

MLPName = Literal["swiglu", "gelu"]


class SwiGLU(nn.Module):
    """`out(silu(gate(x)) * up(x))` without biases, hidden width two thirds of four times D."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 8 * width // 3
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.out = nn.Linear(hidden, width, bias=False)
        for layer in (self.gate, self.up, self.out):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        """Apply the same gated network to every position."""
        return self.out(nn.functional.silu(self.gate(x)) * self.up(x))


class GELUMLP(nn.Sequential):
    """Two biased linear layers around a tanh-approximated GELU, hidden width `ratio` times D."""

    def __init__(self, width: int, ratio: float = 4.0) -> None:
        hidden = int(ratio * width)
        super().__init__(nn.Linear(width, hidden), nn.GELU("tanh"), nn.Linear(hidden, width))
        for layer in (self[0], self[2]):
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def create_mlp(name: MLPName, width: int) -> nn.Module:
    """Return the feed-forward layer `name` for features of `width` channels."""
    if name not in (known := get_args(MLPName)):
        raise InputError(unknown_name("mlp", name, known))
    return SwiGLU(width) if name == "swiglu" else GELUMLP(width)
