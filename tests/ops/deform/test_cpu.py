"""The numba path against the reference, and how it behaves among threads and without numba."""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from convflow.ops.deform import cpu, reference
from convflow.ops.threads import find_numba
from tests.tolerance import assert_close_rms, compare_patterns

BORDERS = ["zeros", "truncate"]
# Batch, height, width, groups, channels, taps.
CASES = [
    (2, 5, 7, 3, 4, 9),
    (1, 1, 1, 1, 1, 1),
    (1, 9, 3, 2, 8, 25),
    (2, 16, 16, 2, 64, 9),
    (1, 13, 6, 5, 72, 1),
    (3, 4, 5, 1, 1, 9),
    (0, 4, 4, 2, 8, 9),
    (2, 4, 3, 1, 8, 0),
    (1, 3, 2, 2, 0, 9),
    (1, 2, 3, 1, 19, 5),
]


def draw(case: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Gradient, values, offsets and weights; taps reach beyond all four borders."""
    *shape, taps = case
    generator = torch.Generator().manual_seed(1)
    grad, values = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    offsets = torch.randn(*shape[:4], taps, 2, generator=generator) * max(shape[1:3]) / 2
    weights = torch.randn(*shape[:4], taps, generator=generator)
    return [grad, values, offsets, weights]


def compare(grad: Tensor, inputs: list[Tensor], border: str) -> None:
    actual = cpu.deform_sample(*inputs, border)
    expected = reference.deform_sample(*inputs, border)
    assert actual.dtype == expected.dtype
    assert_close_rms(actual, expected)
    actuals = cpu.deform_sample_backward(grad, *inputs, border)
    truths = reference.deform_sample_backward(grad, *inputs, border)
    for one, other, tensor in zip(actuals, truths, inputs, strict=True):
        assert one.dtype == other.dtype == tensor.dtype
        assert one.is_contiguous()
        assert_close_rms(one, other)
    given = (*inputs, *(torch.randn_like(tensor) for tensor in inputs), border)
    pushed = cpu.deform_sample_tangent(*given)
    assert pushed.dtype == expected.dtype
    assert_close_rms(pushed, reference.deform_sample_tangent(*given))


@pytest.fixture
def no_numba(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "numba", None)
    find_numba.cache_clear()
    cpu._usable.cache_clear()
    yield
    find_numba.cache_clear()
    cpu._usable.cache_clear()


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_twin_of_the_reference(case: tuple[int, ...], border: str) -> None:
    assert find_numba()[0] is not None, "numba is a dependency; this test needs it"
    grad, *inputs = draw(case)
    compare(grad, inputs, border)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_features_are_summed_in_float32(dtype: torch.dtype, border: str) -> None:
    grad, *inputs = draw((2, 5, 7, 3, 4, 9), dtype)
    compare(grad, inputs, border)
    in_float32 = cpu.deform_sample(inputs[0].float(), *inputs[1:], border)
    assert torch.equal(cpu.deform_sample(*inputs, border), in_float32.to(dtype))


def test_float64_stays_float64() -> None:
    grad, *inputs = (tensor.double() for tensor in draw((2, 5, 7, 3, 4, 9)))
    compare(grad, inputs, "zeros")


def test_permuted_strides() -> None:
    grad, *inputs = draw((2, 5, 7, 3, 4, 9))
    permuted = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in (grad, *inputs)]
    assert not permuted[0].is_contiguous()
    compare(permuted[0], permuted[1:], "zeros")


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize(
    "shift", [(-1.0, 0.0), (0.0, -1.0), (-2.0, -1.0), (7.0, 5.0), (-1.5, 0.25)]
)
def test_taps_on_the_edge_of_the_map(border: str, shift: tuple[float, float]) -> None:
    grad, values, offsets, weights = draw((2, 5, 7, 3, 4, 9))
    compare(grad, [values, torch.zeros_like(offsets) + torch.tensor(shift), weights], border)


@pytest.mark.parametrize("border", BORDERS)
def test_far_offsets_add_nothing(border: str) -> None:
    grad, values, offsets, weights = draw((2, 5, 7, 3, 4, 9))
    far = torch.tensor([1e9, -1e9, 3e38, torch.inf, -torch.inf, torch.nan])
    offsets[..., :6, 0] = far
    offsets[..., 1:7, 1] = far
    compare(grad, [values, offsets, weights], border)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("which", range(4), ids=["grad", "values", "offsets", "weights"])
def test_what_is_not_finite_goes_where_the_reference_has_it(which: int, border: str) -> None:
    """Whole and half offsets too, where shares are zero or equal."""
    odd = torch.tensor([torch.inf, -torch.inf, torch.nan, torch.inf])
    generator = torch.Generator().manual_seed(0)
    for coarse in (0, 1, 2) * 5:
        grad, *inputs = (
            torch.randn(t.shape, generator=generator) for t in draw((1, 5, 6, 2, 4, 9))
        )
        inputs[1] = (2 * inputs[1] * coarse).round() / coarse if coarse else 2 * inputs[1]
        chosen = (grad, *inputs)[which].view(-1)
        chosen[torch.randint(chosen.numel(), (4,), generator=generator)] = odd
        compare_patterns(
            [
                cpu.deform_sample(*inputs, border),
                *cpu.deform_sample_backward(grad, *inputs, border),
            ],
            [
                reference.deform_sample(*inputs, border),
                *reference.deform_sample_backward(grad, *inputs, border),
            ],
        )


def test_a_map_of_more_cells_than_32_bits_count_goes_to_the_reference() -> None:
    values = torch.empty(1, 2**16, 2**16, 1, 1, device="meta")
    offsets = torch.empty(1, 2**16, 2**16, 1, 1, 2, device="meta")
    assert not cpu._serves(values, offsets)
    assert cpu._serves(values[:, 8:], offsets[:, 8:])


def test_same_bits_on_every_run_and_number_of_threads() -> None:
    grad, *inputs = draw((2, 16, 16, 2, 64, 9))

    def run(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        outputs = cpu.deform_sample_backward(grad, *inputs, "zeros")
        return [cpu.deform_sample(*inputs, "zeros"), *outputs]

    first = run(1)
    for threads in (2, 2, 3):
        assert all(map(torch.equal, run(threads), first))


def test_may_be_entered_from_several_threads() -> None:
    grad, *inputs = draw((2, 16, 16, 2, 64, 9))
    torch.set_num_threads(2)
    expected = cpu.deform_sample_backward(grad, *inputs, "zeros")
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda _: cpu.deform_sample_backward(grad, *inputs, "zeros"), range(12))
        for result in results:
            assert all(map(torch.equal, result, expected))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_survives_a_fork() -> None:
    """As in a data loader's worker: the threads of the parent are gone in the child."""
    _, *inputs = draw((2, 16, 16, 2, 64, 9))
    torch.set_num_threads(2)
    # Compared in numpy, because PyTorch's own threads do not survive.
    expected = cpu.deform_sample(*inputs, "zeros").numpy()

    def child() -> None:
        actual = cpu.deform_sample(*inputs, "zeros").numpy()
        os._exit(0 if (actual == expected).all() else 3)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    process.kill()
    assert process.exitcode == 0


def test_without_numba_the_reference_serves_with_one_warning(no_numba: None) -> None:
    grad, *inputs = draw((2, 5, 7, 3, 4, 9))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            out = cpu.deform_sample(*inputs, "zeros")
            cpu.deform_sample_backward(grad, *inputs, "zeros")
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 1, messages
    assert "pip install numba" in messages[0]
    assert torch.equal(out, reference.deform_sample(*inputs, "zeros"))
