"""When a training stops before its end: after Ctrl-C or SIGTERM, or when its time is over."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from convflow.training.saving import finish
from convflow.training.state import save_before
from convflow.types import Diverged, InputError

if TYPE_CHECKING:
    from convflow.training.monitor import Monitor
    from convflow.training.trainer import Trainer

log = logging.getLogger("convflow")


class Stop:
    """Called, it says whether to stop.

    Args:
        deadline: on `time.monotonic`; None where time does not matter.
        reserve: gives the seconds before the deadline that are kept for the end.

    Attributes:
        failed: whether an error ends the run.
    """

    def __init__(self, deadline: float | None = None, reserve: Callable[[], float] = float) -> None:
        self.deadline = math.inf if deadline is None else deadline
        self.reserve = reserve
        self.first, self.failed = math.inf, False

    def __call__(self) -> bool:
        """Return whether a signal has come, an error ends the run or the time is over."""
        return self.failed or self.signalled() or self.late()

    def late(self) -> bool:
        """Return whether the time is over, but for what is kept for the end."""
        return time.monotonic() + self.reserve() >= self.deadline

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
def asked_to_stop(
    deadline: float | None = None, reserve: Callable[[], float] = float
) -> Iterator[Stop]:
    """Turn Ctrl-C and SIGTERM into a flag for the length of the block; a later one is final.

    A second signal within two seconds is the first once more: torchrun passes on what the
    terminal has already sent.

    Args:
        deadline: on `time.monotonic`, when the flag is up without a signal.
        reserve: gives the seconds by which it is up earlier.
    """
    stop = Stop(deadline, reserve)
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


def stop_after(
    error: Exception, trainer: Trainer, monitor: Monitor | None, stop: Stop
) -> Exception:
    """Save before an error ends the run, where that can be; return what to raise.

    The other processes are told where they ask each other, and save as if asked to stop.
    """
    stop.failed, sharded = True, trainer.parallel.sharded
    trainer.savable = trainer.savable and not isinstance(error, Diverged)
    with suppress(InputError):  # a process that is gone
        trainer.agree(stop)
    mine = not trainer.broken if sharded else monitor is not None
    if mine and trainer.savable:
        error = save_before(error, partial(trainer.save, monitor))
    elif trainer.writing and not sharded:  # it is of a moment that was good
        with suppress(InputError):
            finish(trainer)
    return error
