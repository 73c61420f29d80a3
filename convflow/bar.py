"""The progress bar of all commands, whose times are said as people say them."""

from __future__ import annotations

import math
import time
from typing import Any

from tqdm import tqdm

from convflow.units import duration

BAR_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{spent}, {left} left, {rate_fmt}{postfix}]"
USUAL_COLUMNS = 80


class Bar(tqdm):
    """As tqdm's, of a known total, over the width of the terminal.

    Args:
        until: on `time.monotonic`, when the work may end before its total.
        **options: of tqdm.
    """

    def __init__(self, *, until: float = math.inf, **options: Any) -> None:
        self.until = until
        super().__init__(dynamic_ncols=True, bar_format=BAR_FORMAT, **options)

    @property
    def format_dict(self) -> dict[str, Any]:
        """What a line is made of."""
        fields = super().format_dict
        done, elapsed = fields["n"] - fields["initial"], fields["elapsed"]
        rate = fields["rate"] or (done / elapsed if elapsed else 0)
        left = (fields["total"] - fields["n"]) / rate if rate else math.inf
        left = max(0.0, min(left, self.until - time.monotonic()))
        shown = duration(left) if left < math.inf else "?"
        if fields["ncols"] is not None and fields["ncols"] <= 0:  # a terminal without a window
            fields["ncols"] = USUAL_COLUMNS
        return fields | {"spent": duration(elapsed), "left": shown}
