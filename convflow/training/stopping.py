"""When a training stops before its end: after Ctrl-C or SIGTERM, or when its time is over."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger("convflow")


class Stop:
    """Called, it says whether to stop.

    Args:
        deadline: on `time.monotonic`; None where time does not matter.

    Attributes:
        failed: whether an error ends the run.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self.deadline = math.inf if deadline is None else deadline
        self.first, self.failed = math.inf, False

    def __call__(self) -> bool:
        """Return whether a signal has come, an error ends the run or the time is over."""
        return self.failed or self.signalled() or time.monotonic() >= self.deadline

    def signalled(self) -> bool:
        """Return whether a signal has come."""
        return self.first < math.inf

    def note(self, number: int, _: Any) -> None:
        """Take note of a signal; raise KeyboardInterrupt at a later one."""
        if time.monotonic() - self.first > 2:
            raise KeyboardInterrupt
        if not self.signalled():
            log.info("stopping after this step, then saving")
            self.first = time.monotonic()


@contextmanager
def asked_to_stop(deadline: float | None = None) -> Iterator[Stop]:
    """Turn Ctrl-C and SIGTERM into a flag for the length of the block; a later one is final.

    A second signal within two seconds is the first once more: torchrun passes on what the
    terminal has already sent.

    Args:
        deadline: on `time.monotonic`, when the flag is up without a signal.
    """
    stop = Stop(deadline)
    if threading.current_thread() is not threading.main_thread():  # only that one gets signals
        yield stop
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop.note) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
