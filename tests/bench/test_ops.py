"""The operator's rivals agree, and one that does not is found before anything is timed."""

from __future__ import annotations

import pytest
import torch

from convflow.bench import ops
from convflow.types import Disagreement, InputError

SHAPE = (1, 5, 4, 3, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rivals_agree(dtype):
    ops.check_rivals(SHAPE, dtype=dtype)


@pytest.mark.parametrize("rival", ["grid_sample", "gather"])
@pytest.mark.parametrize(
    ("fault", "part"),
    [
        (lambda f: lambda v, o, w: 1.0001 * f(v, o, w), "output"),
        (lambda f: lambda v, o, w: f(v, o.detach(), w) + 0 * o.sum(), "gradient of offsets"),
        (lambda f: lambda v, o, w: f(v, o, w.detach()) + 0 * w.sum(), "gradient of weights"),
    ],
)
def test_a_broken_rival_is_found(rival, fault, part, monkeypatch):
    monkeypatch.setitem(ops.RIVALS, rival, fault(ops.RIVALS[rival]))
    with pytest.raises(Disagreement, match=f"deform_sample and {rival}, {part}"):
        ops.check_rivals(SHAPE)


@pytest.mark.parametrize("mode", ops.OP_MODES)
def test_calls_are_those_of_the_rivals_and_the_limit(mode):
    calls = ops.set_up(SHAPE, mode)
    assert [*calls] == [*ops.RIVALS, "L2 limit"]
    outs = [calls[name]() for name in ops.RIVALS]
    assert all(len(out) == (4 if mode == "forward+backward" else len(outs[0])) for out in outs)
    calls["L2 limit"]()


def test_the_limit_counts_the_bytes_of_the_note(monkeypatch):
    """Per position and group: 4 K C + 3 K + 2 C numbers; backward 12 K C + 6 K + 3 C more."""
    seen = []
    monkeypatch.setattr(ops, "_reader", seen.append)
    for mode in ops.OP_MODES:
        ops.set_up((1, 1, 1, 1, 8), mode)
    forward = 4 * 9 * 8 + 3 * 9 + 2 * 8
    assert seen == [4 * forward, 4 * (forward + 12 * 9 * 8 + 6 * 9 + 3 * 8)]


def test_a_copy_reads_and_writes_its_bytes():
    copy = ops._copier(64, torch.device("cpu"))
    target = copy()
    assert target.nbytes == 32  # read once, written once
    assert target.eq(1).all()


def test_without_numba_there_is_no_limit(monkeypatch):
    monkeypatch.setattr(ops, "find_numba", lambda: (None, "gone"))
    assert [*ops.set_up(SHAPE, "forward")] == [*ops.RIVALS]


def test_size_and_batch_replace_those_of_the_shapes():
    assert ops.shapes_of() == ops.OP_SHAPES
    assert ops.shapes_of((3, 5), 7) == [(7, 3, 5, 12, 64), (7, 3, 5, 16, 72)]
    with pytest.raises(InputError, match="--size: expected sides of at least 1 cell, got 0x4"):
        ops.shapes_of((0, 4))
