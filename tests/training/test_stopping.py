"""Signals and time as one flag."""

import signal
import time

import pytest

from convflow.training.stopping import asked_to_stop


def test_a_signal_is_noted_and_a_later_one_is_final(monkeypatch, caplog):
    before, clock = signal.getsignal(signal.SIGINT), [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with caplog.at_level("INFO", "convflow"), asked_to_stop() as stop:
        assert not stop()
        for number in (signal.SIGINT, signal.SIGTERM):  # torchrun sends a second one at once
            signal.raise_signal(number)
            assert stop()
            assert stop.signalled()
        clock[0] += 2.5
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert caplog.text.count("stopping after this step, then saving") == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_a_deadline_is_no_signal(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with asked_to_stop(101.0) as stop:
        assert not stop()
        clock[0] = 101.0
        assert stop()
        assert not stop.signalled()
