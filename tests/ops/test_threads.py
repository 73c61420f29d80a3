"""Pieces of work on torch's threads and on Python's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convflow.ops import threads
from convflow.ops.vectors import compiled


@pytest.fixture(params=["openmp", "python", "alone"])
def kind(request, monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(1 if request.param == "alone" else 3)
    if request.param == "python":
        monkeypatch.setattr(threads, "_openmp", lambda: 0)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def counting():
    """A kernel that counts how often each piece is done, and by which thread."""

    def count(done, who, scratch, worker, start, stop):
        for piece in range(start, stop):
            done[piece] += 1
            who[piece] = worker
            scratch[worker, 0] += 1

    return compiled(count)


@pytest.mark.parametrize("count", [1, 2, 7, 50])
def test_every_piece_is_done_once(count, counting, kind):
    done, who, made = np.zeros(count, np.int64), np.full(count, -1), list[np.ndarray]()

    def scratch(workers):
        made.append(np.zeros((workers, 1), np.int64))
        return made[-1:]

    threads.share(counting, (done, who), count, scratch)
    assert done.tolist() == [1] * count
    assert set(who) <= set(range(min(3, count) if kind == "openmp" else 1))
    assert sum(one.sum() for one in made) == count  # each thread has a scratch of its own


@pytest.mark.usefixtures("kind")
def test_an_error_comes_back():
    def fails(*_):
        raise IndexError("of a kernel")

    with pytest.raises(IndexError, match="of a kernel"):
        threads.share(fails, (), 9)


@pytest.mark.usefixtures("kind")
def test_a_kernel_without_memory_says_so():
    with pytest.raises(MemoryError, match="no memory"):
        threads.share(lambda *_: 1, (), 9)
