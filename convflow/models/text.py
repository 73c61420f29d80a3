"""Networks that are told texts in place of labels: their settings, and the parts that take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from convflow.conditions.spelling import FIRST_ROW
from convflow.conditions.text import Text
from convflow.nn.attention import CrossAttention
from convflow.nn.text import TextEmbedding
from convflow.settings.fields import Natural
from convflow.types import InputError


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """The settings of a network that are about texts.

    Attributes:
        cross_attention: every so many blocks attend to the tokens of a text, from the last one
            backwards; 0 = none, and the text enters as one vector. A new network computes the same
            with as without.
        text_width: channels of a token of a text; 0 for class labels. The text encoder sets it, and
            the four that follow.
        pooled_width: channels of a text as a whole; 0 as of a token.
        text_length: most tokens of a text.
        text_rows: rows of the table of tokens of a reader that is trained with the network; 0 for
            the features of a frozen encoder.
        text_depth: blocks of that reader.
    """

    cross_attention: Natural = 0
    text_width: Natural = 0
    pooled_width: Natural = 0
    text_length: Natural = 0
    text_rows: Natural = 0
    text_depth: Natural = 0


OF_TEXT = ("text_width", "pooled_width", "text_length", "text_rows", "text_depth")
"""Settings that follow from the text encoder."""


def create_text_embedding(c: TextSettings, widths: int | Sequence[int]) -> TextEmbedding | None:
    """Return what tells a network of texts, None where it is told labels.

    Args:
        c: settings of the network.
        widths: of the vectors of its blocks: one number, or one for each level.

    Raises:
        InputError: settings that do not belong together.
    """
    if not c.text_width:
        if c.cross_attention or any(getattr(c, name) for name in OF_TEXT):
            raise InputError(
                "expected a text encoder with cross_attention and settings of texts, got a network "
                "of class labels; add --text words or --text.encoder PATH, or leave them out"
            )
        return None
    if classes := getattr(c, "num_classes", 0):
        raise InputError(
            f"expected num_classes 0 for a network that is told texts, got {classes}; give it, or "
            "leave the settings of texts out"
        )
    if not c.text_length or (c.text_rows and c.text_rows <= FIRST_ROW):
        raise InputError(
            f"expected a text_length above 0, and text_rows 0 or above {FIRST_ROW}, got "
            f"{c.text_length} and {c.text_rows}; give --text, which sets them"
        )
    return TextEmbedding(
        c.text_width,
        c.text_width if c.text_rows else c.pooled_width or c.text_width,
        c.text_length,
        c.text_rows,
        c.text_depth,
        widths=widths,
        told=_told_width(widths) if c.cross_attention else 0,
    )


def attend_to_text(blocks: Sequence[Any], c: TextSettings, widths: int | Sequence[int]) -> None:
    """Let blocks attend to the tokens of texts, as the settings say.

    Args:
        blocks: in the order in which they run; each has a `modulation` and a place `cross`.
        c: settings of the network.
        widths: as of `create_text_embedding`.
    """
    if not c.cross_attention:
        return
    for block in list(reversed(blocks))[:: c.cross_attention]:
        block.cross = CrossAttention(block.modulation.width, _told_width(widths))


def _told_width(widths: int | Sequence[int]) -> int:
    """Return the channels that all blocks see of a token: those of the finest level."""
    return widths if isinstance(widths, int) else widths[0]


def blank_text(c: TextSettings, batch: int) -> Text | Tensor:
    """Return texts without numbers for a network: features, or numbers of tokens."""
    if c.text_rows:
        return torch.empty(batch, c.text_length, dtype=torch.int64)
    return Text(
        torch.empty(batch, c.text_length, c.text_width),
        torch.empty(batch, c.text_length, dtype=torch.bool),
        torch.empty(batch, c.pooled_width or c.text_width),
    )
