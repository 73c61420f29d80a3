"""What all numba kernels share: vectors, scratches, the cache."""

from __future__ import annotations

import pytest

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


def test_scratch_begins_with_a_line() -> None:
    assert vectors.blank(70).ctypes.data % 64 == 0


def test_compiles_without_a_folder_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = vectors.numba.njit

    def locked(*, cache: bool = False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(vectors.numba, "njit", locked)
    assert vectors.compiled(lambda x: x + 1, 1, 1)(2) == 3
