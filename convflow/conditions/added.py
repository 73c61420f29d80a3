"""Conditions beside which vectors ride along that a network adds to what it makes of them."""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor


class Added(NamedTuple):
    """The conditions of a batch, and vectors for the same samples.

    A network adds the vectors to its embedding of time and conditions. `take` and `cat` work on it
    as on any conditions.

    Attributes:
        cond: conditions of the kind that the network takes, such as labels (B,).
        vectors: as the network's own embeddings give them: (B, D), or one for each level.
    """

    cond: Any
    vectors: Float[Tensor, "B D"] | tuple[Float[Tensor, "B _"], ...]
