"""The numba kernels alone: which maps they fill, what they compile for, where they cache."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from convflow.ops.deform import cpu_kernels


def test_fills_only_the_maps_asked_for() -> None:
    values, offsets = np.ones((2, 2, 3, 2, 4), np.float32), np.zeros((2, 2, 3, 2, 1, 2), np.float32)
    out = np.full_like(values, -7)
    scratch = cpu_kernels.forward_scratch(1, 2, 3, 4, 1)
    given = values, offsets, offsets[..., 0] + 2, out, False
    assert not cpu_kernels.forward_kernel(4, 1)(0, 1, 2, 1, 3, *given, *scratch)
    assert (out[0, :, :, 1] == 2).all()
    assert (out[1, :, :, 0] == 2).all()
    assert (out[0, :, :, 0] == -7).all()
    assert (out[1, :, :, 1] == -7).all()


def test_only_channels_and_taps_are_compiled_in() -> None:
    kernel = cpu_kernels.forward_kernel(4, 9)
    for batch, height, width, groups in ((1, 2, 3, 1), (2, 5, 4, 3)):
        values = np.ones((batch, height, width, groups, 4), np.float32)
        offsets = np.zeros((*values.shape[:4], 9, 2), np.float32)
        weights = np.zeros(offsets.shape[:-1], np.float32)
        scratch = cpu_kernels.forward_scratch(1, height, width, 4, 9)
        given = values, offsets, weights, np.empty_like(values), False
        kernel(0, 1, 1, 0, batch * groups, *given, *scratch)
    assert len(kernel.signatures) == 1


def test_arrays_with_gaps_are_refused_rather_than_misread() -> None:
    values, offsets = np.ones((1, 2, 3, 1, 4), np.float32), np.zeros((1, 2, 3, 1, 9, 2), np.float32)
    scratch = cpu_kernels.forward_scratch(1, 2, 3, 4, 9)
    given = values, offsets, offsets[..., 0], np.empty_like(values), False
    with pytest.raises(numba.TypingError, match="expected contiguous arrays"):
        cpu_kernels.forward_kernel(4, 9)(0, 1, 1, 0, 1, *given, *scratch)


def test_each_kernel_has_files_of_its_own_in_the_cache() -> None:
    """Programs that wrote one index at once could otherwise swap their kernels."""
    kernels = [
        maker(*sizes)
        for maker in (cpu_kernels.forward_kernel, cpu_kernels.backward_kernel)
        for sizes in ((3, 2), (3, 4), (5, 2))
    ]
    names = {kernel._cache._name for kernel in kernels}  # type: ignore[attr-defined]
    assert len(names) == len(kernels)
