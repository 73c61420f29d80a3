"""The numba kernels alone: which maps they fill, what they compile for, where they cache."""

from __future__ import annotations

import numpy as np
import pytest

from convflow.ops.deform import cpu_kernels


def test_fills_only_the_maps_asked_for() -> None:
    values, offsets = np.ones((2, 2, 3, 2, 4), np.float32), np.zeros((2, 2, 3, 2, 1, 2), np.float32)
    out = np.full_like(values, -7)
    cpu_kernels.forward_kernel(4)(values, offsets, offsets[..., 0] + 2, out, False, 1, 3)
    assert (out[0, :, :, 1] == 2).all()
    assert (out[1, :, :, 0] == 2).all()
    assert (out[0, :, :, 0] == -7).all()
    assert (out[1, :, :, 1] == -7).all()


def test_only_the_channels_are_compiled_in() -> None:
    kernel = cpu_kernels.forward_kernel(4)
    for batch, height, width, groups, taps in ((1, 2, 3, 1, 9), (2, 5, 4, 3, 1)):
        values = np.ones((batch, height, width, groups, 4), np.float32)
        offsets = np.zeros((*values.shape[:4], taps, 2), np.float32)
        weights = offsets[..., 0].copy()
        kernel(values, offsets, weights, np.empty_like(values), False, 0, batch * groups)
    contiguous = [signature for signature in kernel.signatures if signature[2].layout == "C"]
    assert len(contiguous) == 1


def test_compiles_without_a_folder_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = cpu_kernels.numba.njit

    def locked(*, cache: bool = False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(cpu_kernels.numba, "njit", locked)
    assert cpu_kernels._compiled(lambda x: x + 1)(2) == 3
