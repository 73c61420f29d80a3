"""The Triton path against torch in float64: on a GPU if there is one, else interpreted."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from convflow.ops import launch
from convflow.ops.depthwise import gpu, reference
from tests.tolerance import assert_close_rms

pytestmark = [
    pytest.mark.skipif(
        launch.find_triton()[0] is None, reason=f"no Triton to run: {launch.find_triton()[1]}"
    ),
    pytest.mark.usefixtures("poisoned", "no_plans"),
]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""The interpreter runs kernels on tensors of the CPU; see conftest.py."""
HALVES = [torch.bfloat16, torch.float16]
# Batch, height, width, channels, side of the kernel.
CASES = [(2, 9, 5, 3, 3), (1, 5, 6, 8, 5), (2, 2, 1, 8, 7), (1, 3, 4, 72, 3)]
MORE_CASES = [(1, 9, 7, 8, 7), (1, 7, 5, 72, 5), (1, 4, 4, 6, 9), (2, 3, 5, 8, 1)]


def draw(case: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Gradient, features, weight and bias."""
    *shape, side = case
    generator = torch.Generator().manual_seed(1)
    grad, x = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    weight = torch.randn(shape[3], 1, side, side, generator=generator)
    bias = torch.randn(shape[3], generator=generator)
    return [tensor.to(DEVICE) for tensor in (grad, x, weight, bias)]


def run(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    """Output and gradients of the features, the weight and the bias."""
    out = gpu.depthwise_conv(x, weight, bias)
    return [out, *gpu.depthwise_conv_backward(grad, x, weight)]


def compare(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise AssertionError unless kernels and torch in float64 agree."""
    added = torch.zeros_like(weight[:, 0, 0, 0]) if bias is None else bias
    leaves = [tensor.cpu().double().requires_grad_() for tensor in (x, weight, added)]
    truth = F.conv2d(
        leaves[0].permute(0, 3, 1, 2),
        *leaves[1:],
        padding=weight.shape[-1] // 2,
        groups=len(weight),
    ).permute(0, 2, 3, 1)
    truths = [truth, *torch.autograd.grad(truth, leaves, grad.cpu().double())]
    actuals = run(grad, x, weight, bias)
    for actual, truth, tensor in zip(actuals, truths, (x, x, weight, added), strict=True):
        assert actual.dtype == tensor.dtype
        assert actual.is_contiguous()
        assert_close_rms(actual, truth)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_twin_of_torch(case: tuple[int, ...]) -> None:
    compare(*draw(case))


@pytest.mark.slow
@pytest.mark.parametrize("case", MORE_CASES, ids=str)
def test_twin_of_torch_at_more_sizes(case: tuple[int, ...]) -> None:
    compare(*draw(case, torch.bfloat16))


def test_without_bias() -> None:
    grad, x, weight, _ = draw((1, 3, 4, 6, 3))
    compare(grad, x, weight, None)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_features_are_summed_in_float32(dtype: torch.dtype) -> None:
    grad, x, weight, bias = draw((1, 5, 2, 8, 3), dtype)
    compare(grad, x, weight, bias)
    actuals = run(grad, x, weight, bias)
    in_float32 = run(grad.float(), x.float(), weight, bias)
    for actual, truth in zip(actuals[2:], in_float32[2:], strict=True):
        assert_close_rms(actual, truth)


@pytest.mark.parametrize("side", [1, 3])
def test_no_two_gradients_share_memory(side: int) -> None:
    """The operator may not: PyTorch refuses it when it is called."""
    x = torch.randn(1, 3, 4, 8, device=DEVICE)
    weight = torch.randn(8, 1, side, side, device=DEVICE)
    grads = gpu.depthwise_conv_backward(x, x, weight)
    assert len({grad.untyped_storage().data_ptr() for grad in grads}) == 3


@pytest.mark.parametrize("want_x", [False, True])
def test_gradients_that_are_not_wanted_cost_nothing(
    want_x: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    grad, x, weight, _ = draw((1, 3, 4, 8, 3))
    everything = gpu.depthwise_conv_backward(grad, x, weight)
    unwanted = "_taps_gradient" if want_x else "_forward"
    monkeypatch.setattr(gpu, unwanted, lambda *a, **k: pytest.fail(f"{unwanted} was called"))
    found = gpu.depthwise_conv_backward(grad, x, weight, want_x, not want_x)
    for one, other, want in zip(found, everything, (want_x, not want_x, not want_x), strict=True):
        assert one.equal(other) if want else one.shape == (0,)


@pytest.mark.parametrize("height", [5, 8, 9])
@pytest.mark.parametrize("row", [0, -1])
def test_an_infinity_stays_with_the_taps_that_read_it(height: int, row: int) -> None:
    """The first row of taps never reads the last row of positions, nor the last the first."""
    grad, x, weight, _ = draw((1, height, 4, 8, 3))
    x[0, row] = torch.inf
    _, of_weight, of_bias = gpu.depthwise_conv_backward(grad, x, weight)
    finite = of_weight.isfinite().all((0, 1, 3))
    assert finite.tolist() == ([False, False, True] if row == 0 else [True, False, False])
    assert of_bias.isfinite().all()


def test_nothing_to_do() -> None:
    compare(*draw((0, 4, 4, 8, 3)))


def test_float64_goes_to_torch() -> None:
    compare(*(tensor.double() for tensor in draw((1, 3, 4, 3, 3))))


def test_unaligned_memory() -> None:
    grad, x, weight, bias = draw((1, 3, 4, 8, 3))
    grad, x = (
        torch.cat((tensor.new_zeros(1), tensor.flatten()))[1:].view_as(tensor)
        for tensor in (grad, x)
    )
    assert x.data_ptr() % 16
    compare(grad, x, weight, bias)


def test_tensors_of_many_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 64-bit places, here of a small tensor."""
    monkeypatch.setattr(gpu, "_LIMIT", 1)
    compare(*draw((2, 3, 5, 3, 3)))


@pytest.mark.parametrize("programs", [1, 28])
def test_slabs_of_several_strips(monkeypatch: pytest.MonkeyPatch, programs: int) -> None:
    """One program or several, each with more strips than it sums at a time."""
    monkeypatch.setattr(gpu, "_PROGRAMS", programs)
    compare(*draw((3, 9, 5, 3, 3)))


def test_same_bits_on_every_run() -> None:
    first, second = (run(*draw((1, 9, 5, 8, 3))) for _ in range(2))
    assert all(map(torch.equal, first, second))


@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter compiles nothing")
def test_compiles_once_for_all_sizes() -> None:
    from convflow.ops.depthwise import gpu_kernels

    counts = []
    for size in ((1, 1, 1, 8), (2, 8, 8, 16), (3, 17, 5, 24), (5, 16, 16, 416)):
        compare(*draw((*size, 3)))
        kernels = (gpu_kernels.forward, gpu_kernels.taps_gradient)
        counts.append([len(kernel.device_caches[0][0]) for kernel in kernels])
    assert all(count == counts[0] for count in counts)


def test_without_triton_torch_serves_with_one_warning(no_triton: None) -> None:
    inputs = draw((1, 3, 4, 3, 3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        out = run(*inputs)[0]
    assert len(caught) == 1
    assert "depthwise_conv runs its slow reference" in str(caught[0].message)
    assert torch.equal(out, reference.depthwise_conv(*inputs[1:]))
