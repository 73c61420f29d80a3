"""Pieces of work on torch's threads and on Python's."""

from __future__ import annotations

import pytest
import torch

from convflow.ops import threads


@pytest.fixture(params=["openmp", "python", "alone"])
def _kind(request, monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(1 if request.param == "alone" else 3)
    if request.param == "python":
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 7, 50])
@pytest.mark.usefixtures("_kind")
def test_every_piece_is_done_once(count):
    done = [0] * count

    def task(start, stop):
        for piece in range(start, stop):
            done[piece] += 1

    threads.share(task, count)
    assert done == [1] * count


@pytest.mark.usefixtures("_kind")
def test_an_error_comes_back():
    def task(start, stop):
        raise IndexError("of a kernel") if start else ValueError("of a kernel")

    with pytest.raises(ValueError, match="of a kernel"):
        threads.share(task, 1)
    with pytest.raises((IndexError, ValueError), match="of a kernel"):
        threads.share(task, 9)
