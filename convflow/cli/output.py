"""What the commands print and log: no control character of a name reaches the terminal."""

from __future__ import annotations

import io
import logging
import re
import sys

HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"  # C0, C1, lines, directions
)


def plain(text: object) -> str:
    r"""Return a text as one line, with what would steer a terminal written out.

    >>> plain("a\x1b[2J\nb")
    'a\\x1b[2J\\nb'
    """
    return HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def say(*lines: object) -> None:
    """Print each of `lines` as one line, at once."""
    print(*map(plain, lines), sep="\n", flush=True)


class PlainFormatter(logging.Formatter):
    """Writes a record as its message in one line."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the message without control characters."""
        return plain(super().formatMessage(record))


def open_terminal() -> None:
    """Let every character be printed, whatever the console's encoding, and logs go to stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
