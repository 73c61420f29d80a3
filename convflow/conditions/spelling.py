"""Texts as rows of numbers, without a vocabulary: words by their hash, or bytes.

Hashing words into so many rows: Weinberger et al. 2009, section 2. Two words may share a row.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from typing import Literal

Spelling = Literal["words", "bytes"]

PADDING, BEGIN, FIRST_ROW = 0, 1, 2
"""Numbers of what is no token, and of what stands in front of a text; then come tokens."""

NUM_BYTES = 256


def spell(text: str, spelling: Spelling, rows: int) -> list[int]:
    """Return the numbers of the tokens of a text, `BEGIN` in front.

    Args:
        text: of any length; case and composed letters make no difference to words.
        spelling: "words", with each sign between them a word too, or "bytes" of UTF-8.
        rows: of the table of tokens; each number is below it.

    Examples:
        >>> spell("ab", "bytes", 258)
        [1, 99, 100]
        >>> spell("Red heart", "words", 1000) == spell("red  heart", "words", 1000)
        True
    """
    if spelling == "bytes":
        known = list(text.encode("utf-8", "surrogateescape"))
    else:
        plain = unicodedata.normalize("NFKC", text).casefold()
        words = re.findall(r"\w+|[^\w\s]", plain)
        known = [zlib.crc32(word.encode("utf-8", "surrogateescape")) for word in words]
    return [BEGIN, *(FIRST_ROW + number % (rows - FIRST_ROW) for number in known)]
