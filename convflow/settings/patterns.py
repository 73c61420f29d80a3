"""Names chosen by patterns such as `blocks.*,embed*`, in which * stands for anything."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from fnmatch import fnmatchcase

from convflow.types import InputError

NEAREST = 3
"""Names that a message shows for a pattern that fits none."""


def split_patterns(text: str) -> list[str]:
    """Return the patterns in a text, without empty ones."""
    return [pattern for word in text.split(",") if (pattern := word.strip())]


def fits_any(name: str, patterns: Collection[str]) -> bool:
    """Return whether a name fits one of some patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def chosen_names(
    patterns: Collection[str], names: Collection[str], option: str, what: str
) -> list[str]:
    """Return the names that fit a pattern, in their own order.

    Args:
        patterns: each must fit at least one name.
        names: that can be chosen.
        option: of the command line, for the message.
        what: one of the names is, for the message.

    Raises:
        InputError: a pattern that fits no name; the message has the nearest names.
    """
    for pattern in patterns:
        if any(fnmatchcase(name, pattern) for name in names):
            continue
        plain = pattern.replace("*", "")
        near = difflib.get_close_matches(plain, names, NEAREST, 0.3) or [*names][:NEAREST]
        known = f"nearest: {', '.join(near)}; change it" if near else "there is none; leave it out"
        raise InputError(
            f"{option}: expected patterns that fit {what}, got {pattern!r}, which fits none; "
            f"{known}"
        )
    return [name for name in names if fits_any(name, patterns)]
