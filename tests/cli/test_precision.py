"""What is said of bfloat16 where no precision was chosen."""

from __future__ import annotations

import logging

import pytest
import torch

from convflow import distributed
from convflow.cli.precision import advise

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("given", "fast", "device", "seconds", "lines"),
    [(None, True, CPU, 30, 1), ("float32", True, CPU, 30, 0), (None, False, CPU, 30, 0),
     (None, True, torch.device("meta"), 30, 0), (None, True, CPU, 5, 0)],
)  # fmt: skip
def test_the_ratio_is_said_once_where_bfloat16_is_fast(
    monkeypatch, caplog, given, fast, device, seconds, lines
):
    monkeypatch.setattr(distributed, "has_fast_bfloat16", lambda _: fast)
    times = {torch.float32: 3.0, torch.bfloat16: 1.5}
    monkeypatch.setattr("convflow.bench.utilisation.product", lambda _, dtype: dtype)
    monkeypatch.setattr("convflow.bench.floor.least_seconds", times.__getitem__)
    with caplog.at_level(logging.INFO, "convflow"):
        advise(device, given, seconds)
    assert len(caplog.messages) == lines
    assert all("2.0 times as fast here" in message for message in caplog.messages)
