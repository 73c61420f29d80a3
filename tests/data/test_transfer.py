"""Pixels sent to a device by a stream of its own."""

import contextlib

import pytest
import torch

from convflow.data import transfer
from convflow.data.transfer import Transfer


@pytest.mark.parametrize("device", [None, torch.device("cpu")])
def test_the_cpu_has_them_already(device):
    pixels = torch.arange(3)
    sent, there, wait = Transfer(device).send(pixels)
    wait()
    assert sent is pixels
    assert there is None


class Stream(contextlib.AbstractContextManager):
    """What is done on a stream, in order."""

    def __init__(self, device, done=None):
        self.done = [] if done is None else done

    def __exit__(self, *error):
        self.done.append("left")

    def record_event(self):
        self.done.append("recorded")
        return "event"

    def wait_event(self, event):
        self.done.append(f"waited for {event}")


def test_who_uses_the_copy_waits_for_it(monkeypatch):
    """The order of calls alone: there is no such device here."""
    done = []
    monkeypatch.setattr(transfer, "copies_aside", lambda device: True)
    monkeypatch.setattr(torch, "Stream", lambda device: Stream(device, done))
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda device: Stream(device, done))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self.clone())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *of: done.append("kept"))
    sent, there, wait = Transfer(torch.device("cpu")).send(torch.arange(3))
    assert done == ["recorded", "left"]
    wait()
    assert done[2:] == ["waited for event", "kept"]
    assert torch.equal(sent, there)
