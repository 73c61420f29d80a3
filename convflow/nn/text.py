"""What a network makes of a text: a vector of each sample, and tokens to attend to.

The features come from a frozen encoder, or from a `TextReader`, which is trained with the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from convflow.conditions.text import Spelled, Text, Texts
from convflow.nn.attention import gather
from convflow.nn.dense import GELUMLP, create_linear
from convflow.nn.linear import Linear
from convflow.nn.norm import LevelCondition, WithText

READER_HEAD = 32
"""Channels of a head of a `TextReader`."""


class ReaderBlock(nn.Module):
    """Attention among the tokens of a text, then a feed-forward layer, each normed and added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = width // READER_HEAD if width % READER_HEAD == 0 else 1
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = create_linear(width, 3 * width), create_linear(width, width)
        self.mlp = GELUMLP(width, 2)

    def forward(
        self, x: Float[Tensor, "B L E"], mask: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B L E"]:
        """Return the refined tokens."""
        heads = self.qkv(self.norm1(x)).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        x = x + self.out(gather(q, k, v, mask[:, None, None]).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class TextReader(nn.Module):
    """A small text encoder that is trained with its network: a table, and a few blocks.

    Args:
        rows: of the table of tokens.
        width: channels E of a token.
        length: most tokens of a text.
        depth: number of blocks.
    """

    def __init__(self, rows: int, width: int, length: int, depth: int) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, width)
        self.places = nn.Parameter(torch.empty(length, width))
        self.blocks = nn.ModuleList(ReaderBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.table.weight, std=0.02)
        nn.init.normal_(self.places, std=0.02)

    def forward(self, ids: Int[Tensor, "B L"]) -> Text:
        """Return the features of texts, `pooled` the mean over their tokens.

        Args:
            ids: rows of the table; 0 is padding.
        """
        mask = ids != 0
        tokens = self.table(ids) + self.places[: ids.shape[1]]
        for block in self.blocks:
            tokens = block(tokens, mask)
        tokens = self.norm(tokens)
        share = mask.to(tokens.dtype)[..., None]
        return Text(tokens, mask, (tokens * share).sum(1) / share.sum(1).clamp_min(1))


class TextEmbedding(nn.Module):
    """What a network is told of texts, in place of the labels' embeddings.

    It knows the empty text, for guidance and for dropped texts: that of a frozen encoder is stored
    with the weights.

    Args:
        tokens: channels E of a token.
        pooled: channels P of a whole text.
        length: most tokens of a text.
        rows: of the table of a `TextReader`; 0 for the features of a frozen encoder.
        depth: blocks of a `TextReader`.
        widths: of the vectors: one number, or one for each level.
        told: channels to which tokens are brought for attention; 0 for none.
    """

    empty_tokens: Tensor
    empty_mask: Tensor
    empty_pooled: Tensor

    def __init__(
        self,
        tokens: int,
        pooled: int,
        length: int,
        rows: int,
        depth: int,
        *,
        widths: int | Sequence[int],
        told: int,
    ) -> None:
        super().__init__()
        self.reader = TextReader(rows, tokens, length, depth) if rows else None
        if not rows:
            self.register_buffer("empty_tokens", torch.zeros(1, length, tokens))
            self.register_buffer("empty_mask", torch.arange(length)[None] < 1)
            self.register_buffer("empty_pooled", torch.zeros(1, pooled))
        self.single = isinstance(widths, int)
        each = [widths] if isinstance(widths, int) else list(widths)
        self.levels = nn.ModuleList(
            nn.Sequential(Linear(pooled, width), nn.SiLU(), Linear(width, width)) for width in each
        )
        self.tell = Linear(tokens, told) if told else None

    @property
    def conditions(self) -> Texts | Spelled:
        """What can be done with the conditions that it is told."""
        if self.reader is not None:
            return Spelled()
        return Texts(Text(self.empty_tokens, self.empty_mask, self.empty_pooled))

    def know_empty(self, empty: Text) -> None:
        """Take the features of the empty text, one row, from the encoder."""
        self.empty_tokens.copy_(empty.tokens)
        self.empty_mask.copy_(empty.mask)
        self.empty_pooled.copy_(empty.pooled)

    def forward(self, y: Text | Int[Tensor, "B L"]) -> LevelCondition | tuple[LevelCondition, ...]:
        """Return the condition of texts: one, or one for each level."""
        text: Text = self.reader(y) if self.reader is not None else cast(Text, y)
        dtype = self.levels[0][0].weight.dtype  # type: ignore[index]
        whole = _normed(text.pooled.to(dtype))
        vectors: list[Tensor] = [level(whole) for level in self.levels]
        found: list[LevelCondition] = [*vectors]
        if self.tell is not None:
            tokens = self.tell(_normed(text.tokens.to(dtype)))
            found = [WithText(vector, tokens, text.mask) for vector in vectors]
        return found[0] if self.single else tuple(found)


def _normed(x: Tensor) -> Tensor:
    """Return vectors of mean 0 and deviation 1, whatever an encoder's are."""
    return nn.functional.layer_norm(x, x.shape[-1:], eps=1e-8)
