"""Texts as conditions: features of a frozen text encoder, or the numbers of their tokens.

Guidance and dropped texts take the empty text in place of the one that is asked for: Ho & Salimans
2022, algorithm 1, with an empty prompt as in Rombach et al. 2022, section 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils._pytree import tree_map

from convflow.conditions.added import Added
from convflow.conditions.spelling import BEGIN


class Text(NamedTuple):
    """Features of the texts of a batch, all padded to L tokens.

    Attributes:
        tokens: of each token, as the encoder gives them.
        mask: True where there is a token, False where there is padding.
        pooled: of each text as a whole.
    """

    tokens: Float[Tensor, "B L E"]
    mask: Bool[Tensor, "B L"]
    pooled: Float[Tensor, "B P"]


def widened(text: Text) -> Text:
    """Return features in float32: autocast to bfloat16 joins no float16."""
    return Text(text.tokens.float(), text.mask, text.pooled.float())


@dataclass(frozen=True)
class Texts:
    """Texts by their features; `empty` has those of the empty text, one row.

    Vectors that ride along (`Added`) stay as they are.

    Examples:
        >>> empty = Text(torch.zeros(1, 2, 3), torch.tensor([[True, False]]), torch.zeros(1, 4))
        >>> asked = Text(torch.ones(5, 2, 3), torch.ones(5, 2, dtype=torch.bool), torch.ones(5, 4))
        >>> Texts(empty).drop(asked, torch.arange(5) > 0).pooled[:, 0]
        tensor([1., 0., 0., 0., 0.])
    """

    empty: Text

    def null(self, cond: Text) -> Text:
        """Return as many times the empty text."""
        if isinstance(cond, Added):
            return cond._replace(cond=self.null(cond.cond))
        return tree_map(lambda none, part: none.to(part).expand_as(part), self.empty, cond)

    def drop(self, cond: Text, mask: Bool[Tensor, " B"]) -> Text:
        """Return the texts, the empty one where the mask is set."""
        if isinstance(cond, Added):
            return cond._replace(cond=self.drop(cond.cond, mask))

        def choose(none: Tensor, part: Tensor) -> Tensor:
            return torch.where(mask.view(-1, *[1] * (part.ndim - 1)), none, part)

        return tree_map(choose, self.null(cond), cond)


@dataclass(frozen=True)
class Spelled:
    """Texts as the numbers of their tokens (B, L), of which a trained network reads them.

    0 is padding, and `BEGIN` stands in front of every text; the empty text has nothing else.

    Examples:
        >>> Spelled().drop(torch.tensor([[1, 7, 8], [1, 9, 0]]), torch.tensor([False, True]))
        tensor([[1, 7, 8],
                [1, 0, 0]])
    """

    def null(self, cond: Int[Tensor, "B L"]) -> Int[Tensor, "B L"]:
        """Return as many times the empty text."""
        if isinstance(cond, Added):
            return cond._replace(cond=self.null(cond.cond))
        empty = torch.zeros_like(cond)
        empty[:, 0] = BEGIN
        return empty

    def drop(self, cond: Int[Tensor, "B L"], mask: Bool[Tensor, " B"]) -> Int[Tensor, "B L"]:
        """Return the texts, the empty one where the mask is set."""
        if isinstance(cond, Added):
            return cond._replace(cond=self.drop(cond.cond, mask))
        return torch.where(mask[:, None], self.null(cond), cond)
