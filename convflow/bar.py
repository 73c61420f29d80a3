"""The progress bar of all commands, whose times are said as people say them."""

from __future__ import annotations

import math
import os
import sys
import time
from typing import IO, Any

from tqdm import tqdm

from convflow.units import duration

BAR_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{spent}, {left} left, {rate_fmt}{postfix}]"
USUAL_SIZE = {"ncols": 80, "nrows": 24}


class Bar(tqdm):
    """As tqdm's, of a known total, over the width of the terminal.

    Args:
        until: on `time.monotonic`, when the work may end before its total.
        **options: of tqdm.
    """

    def __init__(self, *, until: float = math.inf, **options: Any) -> None:
        self.until = until
        fixed = {} if _has_size(options.get("file") or sys.stderr) else USUAL_SIZE
        super().__init__(dynamic_ncols=not fixed, bar_format=BAR_FORMAT, **options, **fixed)

    @property
    def format_dict(self) -> dict[str, Any]:
        """What a line is made of."""
        fields = super().format_dict
        done, elapsed = fields["n"] - fields["initial"], fields["elapsed"]
        rate = fields["rate"] or (done / elapsed if elapsed else 0)
        left = (fields["total"] - fields["n"]) / rate if rate else math.inf
        left = max(0.0, min(left, self.until - time.monotonic()))
        shown = duration(left) if left < math.inf else "?"
        return fields | {"spent": duration(elapsed), "left": shown}


def _has_size(file: IO[str]) -> bool:
    """Return whether a file is no terminal, or one that knows its columns."""
    try:
        return os.get_terminal_size(file.fileno()).columns > 0
    except OSError:
        return True
