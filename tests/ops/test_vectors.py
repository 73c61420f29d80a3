"""What all numba kernels share: vectors, scratches, the cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from convflow.ops import vectors


@pytest.mark.parametrize("count", [1, 3, 16, 23, 72, 257])
def test_vectors_cover_every_number_once_and_lie_in_one_line(count: int) -> None:
    pieces = vectors.pieces(count)
    covered = [number for start, lanes in pieces for number in range(start, start + lanes)]
    assert covered == list(range(count))
    pitch = vectors.pitch(count)
    assert count <= pitch < count + 16
    for start, lanes in pieces:
        for cell in range(3):
            first = cell * pitch + start
            assert first // 16 == (first + lanes - 1) // 16


def test_scratches_begin_with_a_line() -> None:
    for row in vectors.blank(3, 70):
        assert row.ctypes.data % 64 == 0
        assert len(row) >= 70
        assert not row.any()


def test_halves_are_those_of_torch() -> None:
    """Rounded to even, infinities and NaN included."""

    @vectors.inlined
    def move(b, source, at, target):
        vectors.store(b, vectors.load(b, source, at, 16), target, at)

    def kernel(source, target, worker, start, stop):
        for piece in range(start, stop):
            move(source, piece * 16, target)

    odd = torch.tensor([float("inf"), -float("inf"), float("nan"), 3.4e38, 1e-40, -0.0, 1.00390625])
    numbers = torch.cat([odd, torch.randn(41)])
    bits, back = np.empty(48, np.int16), np.empty(48, np.float32)
    kernel.__globals__["move"] = move
    run = vectors.compiled(kernel)
    assert not run(0, 1, 1, 0, 3, numbers.numpy(), bits)
    expected = numbers.bfloat16()
    torch.testing.assert_close(
        torch.from_numpy(bits).view(torch.bfloat16), expected, rtol=0, atol=0, equal_nan=True
    )
    assert not run(0, 1, 1, 0, 3, bits, back)
    torch.testing.assert_close(torch.from_numpy(back), expected.float(), equal_nan=True)


TRUTH = """
import sys
import torch
from convflow.ops.deform import cpu, reference

for words in sys.argv[1:]:
    channels, taps = map(int, words.split(","))
    shape, random = (1, 5, 6, 2), torch.Generator().manual_seed(0)
    sizes = (*shape, channels), (*shape, taps, 2), (*shape, taps)
    given = [torch.randn(size, generator=random) for size in sizes]
    expected = reference.deform_sample(*given, "zeros")
    torch.testing.assert_close(cpu.deform_sample(*given, "zeros"), expected)
"""


@pytest.mark.slow
def test_kernels_of_the_cache_and_new_ones_stay_apart(tmp_path: Path) -> None:
    """Both lie in one process, which knows a compiled function by its name."""
    env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    for kernels in (["7,9"], ["5,3", "7,9"], ["6,4", "5,3", "7,9"]):
        done = subprocess.run(
            [sys.executable, "-c", TRUTH, *kernels], env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_compiles_without_a_folder_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = vectors.numba.njit

    def locked(*, cache: bool = False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(vectors.numba, "njit", locked)
    done = np.zeros(5, np.int64)

    def kernel(done, worker, start, stop):
        for piece in range(start, stop):
            done[piece] += 1 + worker

    assert vectors.compiled(kernel, 1, 1)(0, 1, 2, 1, 4, done) == 0
    assert done.tolist() == [0, 1, 1, 1, 0]
