"""What the commands print and log: no control character of a name reaches the terminal."""

from __future__ import annotations

import io
import logging
import re
import sys
import tempfile
from pathlib import Path

from convflow.types import InputError

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


def is_for_users(record: logging.LogRecord) -> bool:
    """Return whether a line is shown: huggingface_hub tells where drafts are, by names of files."""
    return "huggingface_hub" not in record.name or record.levelno >= logging.ERROR


def open_terminal() -> None:
    """Let every character be printed, whatever the console's encoding, and logs go to stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter("%(message)s"))
    handler.addFilter(is_for_users)
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def check_target(
    out: Path, single: bool, option: str = "out", cure: str = "choose another name"
) -> None:
    """Raise InputError when images could not be written, before any is made.

    Args:
        out: a folder, or a .png file.
        single: whether it is a folder, of files for each image.
        option: that names it.
        cure: what to do about a folder in the place of a file.
    """
    if single and out.exists() and not out.is_dir():
        raise InputError(f"--{option}: expected a folder, got the file {out}; choose another name")
    if not single and out.is_dir():
        raise InputError(f"--{option}: expected a .png file, got the folder {out}; {cure}")
    place = next(path for path in ((out, *out.parents) if single else out.parents) if path.exists())
    if not place.is_dir():
        raise InputError(f"--{option}: expected a folder, got the file {place}; choose another")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise InputError(
            f"--{option}: expected a folder that can be written to, got {place} "
            f"({error.strerror}); choose another"
        ) from error
