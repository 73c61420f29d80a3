"""Pixels on their way to a device, beside what the device computes."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import torch
from torch import Tensor

from convflow.distributed import copies_aside


class Transfer:
    """Copies tensors to a device by a stream of its own, from any thread.

    Args:
        device: Where to; to the CPU, None, and devices without such streams nothing is copied.
    """

    def __init__(self, device: torch.device | None) -> None:
        aside = device is not None and copies_aside(device)
        self.device, self.stream = device, torch.Stream(device) if aside else None
        self._lock = Lock()  # threads take turns to be on the stream

    def send(self, pixels: Tensor) -> tuple[Tensor, Tensor | None, Callable[[], None]]:
        """Begin to copy.

        Returns:
            The tensor in memory that the device can read, the copy, and a function to be called
            before the copy is used by the stream that uses it; the copy is None where there is
            none to wait for.
        """
        if self.stream is None:
            return pixels, None, lambda: None
        with self._lock, self.stream:
            pinned = pixels.pin_memory()
            there = pinned.to(self.device, non_blocking=True)
            done = self.stream.record_event()

        def wait() -> None:
            user = torch.accelerator.current_stream(self.device)
            user.wait_event(done)
            there.record_stream(user)

        return pinned, there, wait
