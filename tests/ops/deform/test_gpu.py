"""The Triton path against the float64 reference: on a GPU if there is one, else interpreted."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from convflow.ops import launch
from convflow.ops.deform import gpu, op, reference
from tests.tolerance import TOLERANCE, assert_close_rms, compare_patterns

pytestmark = [
    pytest.mark.skipif(
        launch.find_triton()[0] is None, reason=f"no Triton to run: {launch.find_triton()[1]}"
    ),
    pytest.mark.usefixtures("poisoned", "no_plans"),
]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""The interpreter runs kernels on tensors of the CPU; see conftest.py."""
BORDERS = ["zeros", "truncate"]
HALVES = [torch.bfloat16, torch.float16]
# Batch, height, width, groups, channels, taps.
CASES = [
    (2, 3, 5, 2, 3, 9),
    (1, 3, 9, 1, 8, 25),
    (1, 10, 4, 1, 64, 1),
    (1, 4, 5, 1, 72, 9),
]
MORE_CASES = [
    (2, 5, 7, 3, 8, 9),
    (1, 17, 19, 1, 8, 9),
    (1, 16, 16, 1, 72, 9),
    (2, 7, 6, 2, 144, 9),
    (1, 9, 9, 1, 64, 25),
    (1, 12, 3, 3, 3, 1),
]


def draw(case: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Gradient, values, offsets and weights; taps reach beyond all four borders."""
    *shape, taps = case
    generator = torch.Generator().manual_seed(1)
    grad, values = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    offsets = torch.randn(*shape[:4], taps, 2, generator=generator) * max(shape[1:3]) / 2
    weights = torch.randn(*shape[:4], taps, generator=generator)
    return [tensor.to(DEVICE) for tensor in (grad, values, offsets, weights)]


def draw_merged(case: tuple[int, ...], dtype: torch.dtype, rows: int) -> list[Tensor]:
    """Gradient, values and heads in one tensor, prior and reach."""
    grad, values, *_ = draw((*case, 9), dtype)
    generator = torch.Generator().manual_seed(3)
    heads = torch.randn(*case[:3], 36 * case[3], generator=generator).to(DEVICE, dtype)
    merged, prior = torch.cat((values.flatten(3), heads), -1), torch.randn(case[3])
    return [grad.flatten(3), merged, prior.to(DEVICE), (1 + 3 * torch.rand(rows, 2)).to(DEVICE)]


def run(grad: Tensor, inputs: list[Tensor], border: str) -> list[Tensor]:
    """Output and gradients of `deform_sample`, or of `msdcn_sample` for a merged tensor."""
    name = "deform_sample" if inputs[0].dim() == 5 else "msdcn_sample"
    out = getattr(gpu, name)(*inputs, border)
    return [out, *getattr(gpu, f"{name}_backward")(grad, *inputs, border)]


def compare(grad: Tensor, inputs: list[Tensor], border: str) -> None:
    """Raise AssertionError unless kernels and the float64 reference agree."""
    name = "deform_sample" if inputs[0].dim() == 5 else "msdcn_sample"
    exact = [tensor.cpu().double() for tensor in inputs]
    truths = getattr(reference, f"{name}_backward")(grad.cpu().double(), *exact, border)
    truths = [getattr(reference, name)(*exact, border), *truths]
    actuals = run(grad, inputs, border)
    if inputs[0].dim() == 5:
        tangents = [torch.randn_like(tensor) for tensor in inputs]
        given = (*exact, *(tensor.cpu().double() for tensor in tangents), border)
        pushed = gpu.deform_sample_tangent(*inputs, *tangents, border)
        assert pushed.dtype == inputs[0].dtype
        assert_close_rms(pushed, reference.deform_sample_tangent(*given))
    kinds = [inputs[0], *inputs][: len(truths)]
    for actual, truth, tensor in zip(actuals, truths, kinds, strict=True):
        assert actual.dtype == tensor.dtype
        assert actual.is_contiguous()
        assert_close_rms(actual, truth)


@pytest.mark.parametrize(
    ("case", "border"), [*zip(CASES, BORDERS * 2, strict=True), (CASES[0], "truncate")], ids=str
)
def test_twin_of_the_reference(case: tuple[int, ...], border: str) -> None:
    grad, *inputs = draw(case)
    compare(grad, inputs, border)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(MORE_CASES)), ids=lambda i: str(MORE_CASES[i]))
def test_twin_of_the_reference_at_more_sizes(number: int) -> None:
    grad, *inputs = draw(MORE_CASES[number], [torch.bfloat16, torch.float32][number % 2])
    compare(grad, inputs, BORDERS[number % 2])


@pytest.mark.parametrize("dtype", HALVES)
def test_half_features_are_summed_in_float32(dtype: torch.dtype) -> None:
    grad, *inputs = draw((1, 4, 5, 1, 72, 9), dtype)
    compare(grad, inputs, "zeros")
    actuals = run(grad, inputs, "zeros")
    in_float32 = run(grad.float(), [inputs[0].float(), *inputs[1:]], "zeros")
    # The interpreter cuts bfloat16 off where a GPU rounds it.
    cut = DEVICE == "cpu" and dtype == torch.bfloat16
    limit = TOLERANCE[dtype] / (3 if cut else 16)
    assert_close_rms(actuals[0], in_float32[0].to(dtype), limit=limit)
    for actual, truth in zip(actuals[2:], in_float32[2:], strict=True):
        assert_close_rms(actual, truth)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("border", BORDERS)
def test_merged_against_the_reference(border: str, rows: int) -> None:
    grad, *inputs = draw_merged((2, 4, 5, 2, 8), torch.float32, rows)
    compare(grad, inputs, border)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_merged_whose_rows_are_no_whole_pieces_of_16_bytes(dtype: torch.dtype) -> None:
    grad, *inputs = draw_merged((2, 3, 9, 1, 8), dtype, 1)
    assert inputs[0].shape[-1] % 8
    compare(grad, inputs, "zeros")


def test_merged_with_64_bit_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_LIMIT", 1)
    grad, *inputs = draw_merged((1, 3, 4, 2, 4), torch.float32, 1)
    compare(grad, inputs, "zeros")


def test_reference_of_merged_is_differentiated_right() -> None:
    grad, *inputs = (tensor.double() for tensor in draw_merged((2, 3, 4, 2, 3), torch.float32, 2))
    leaves = [tensor.requires_grad_() for tensor in inputs[:2]]
    out = reference.msdcn_sample(*leaves, inputs[2], "zeros")
    truths = torch.autograd.grad(out, leaves, grad)
    actuals = reference.msdcn_sample_backward(grad, *inputs, "zeros")
    for actual, truth in zip(actuals, truths, strict=True):
        assert_close_rms(actual, truth)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("shift", [(-1.0, 0.0), (0.0, -1.0), (-2.0, -1.0), (-1.5, 0.25)])
def test_taps_on_the_edge_of_the_map(border: str, shift: tuple[float, float]) -> None:
    grad, values, offsets, weights = draw((1, 3, 4, 1, 4, 1))
    shifted = torch.zeros_like(offsets) + torch.tensor(shift, device=DEVICE)
    compare(grad, [values, shifted, weights], border)


@pytest.mark.parametrize("border", BORDERS)
def test_far_offsets_add_nothing(border: str) -> None:
    grad, values, offsets, weights = draw((1, 3, 4, 1, 4, 9))
    far = torch.tensor([1e9, -1e9, 3e38, torch.inf, -torch.inf, torch.nan], device=DEVICE)
    offsets[..., :6, 0] = far
    offsets[..., 1:7, 1] = far
    compare(grad, [values, offsets, weights], border)
    weights[..., :7] = torch.inf
    out, *grads = run(grad, [values, offsets, weights], border)
    assert all(tensor.isfinite().all() for tensor in (out, *grads))


def test_nothing_in_reach_leaves_zeros() -> None:
    grad, values, offsets, weights = draw((1, 3, 4, 1, 4, 9))
    out, *grads = run(grad, [values, offsets + 100, weights], "zeros")
    assert not any(tensor.any() for tensor in (out, *grads))


@pytest.mark.parametrize("case", [(0, 4, 4, 2, 8, 9), (1, 2, 2, 1, 4, 0)])
def test_nothing_to_do(case: tuple[int, ...]) -> None:
    grad, *inputs = draw(case)
    compare(grad, inputs, "zeros")


def test_float64_goes_to_the_reference() -> None:
    grad, *inputs = (tensor.double() for tensor in draw((1, 3, 4, 2, 3, 2)))
    compare(grad, inputs, "zeros")


def test_unaligned_memory() -> None:
    grad, *inputs = (
        torch.cat((tensor.new_zeros(1), tensor.flatten()))[1:].view_as(tensor)
        for tensor in draw((1, 3, 4, 1, 8, 2))
    )
    assert inputs[0].data_ptr() % 16
    compare(grad, inputs, "zeros")


def test_unaligned_heads_are_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, merged, *others = draw_merged((1, 3, 4, 2, 4), torch.float32, 1)
    moved = torch.cat((merged.new_zeros(1), merged.flatten()))[1:].view_as(merged)
    copies, clone = [], Tensor.clone
    monkeypatch.setattr(Tensor, "clone", lambda self: copies.append(self) or clone(self))
    gpu.msdcn_sample(moved, *others, "zeros")
    assert len(copies) == 1


@pytest.mark.parametrize("want_values", [False, True])
def test_gradients_that_are_not_wanted_cost_nothing(
    want_values: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    grad, *inputs = draw((1, 3, 4, 1, 4, 2))
    wanted = {"tap_boxes", "values_gradient"} if want_values else {"taps_gradient"}
    launched, call = set(), launch.Launch.__call__

    def spy(self: launch.Launch, *tensors: Tensor) -> None:
        names = (name for name in gpu._Plan._fields if getattr(plan, name) is self)
        launched.update(names)
        call(self, *tensors)

    plan = gpu._plan_for(*inputs, "zeros")
    everything = gpu.deform_sample_backward(grad, *inputs, "zeros")
    monkeypatch.setattr(launch.Launch, "__call__", spy)
    found = gpu.deform_sample_backward(grad, *inputs, "zeros", want_values, not want_values)
    assert launched == wanted
    for one, other, want in zip(
        found, everything, (want_values, not want_values, not want_values), strict=True
    ):
        assert one.equal(other) if want else one.shape == (0,)


def test_pictures_of_many_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 64-bit positions, here of a small image."""
    monkeypatch.setattr(gpu, "_LIMIT", 1)
    grad, *inputs = draw((2, 3, 9, 2, 3, 4))
    compare(grad, inputs, "zeros")


@pytest.mark.parametrize("deterministic", [False, True])
def test_same_bits_on_every_run(deterministic: bool) -> None:
    """There are no atomics, so PyTorch's deterministic mode has nothing to change."""
    grad, *inputs = draw((1, 9, 10, 1, 8, 2))
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        first, second = (run(grad, inputs, "zeros") for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(before)
    assert all(map(torch.equal, first, second))


@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter compiles nothing")
def test_compiles_once_for_all_sizes() -> None:
    from convflow.ops.deform import gpu_gradient_kernels, gpu_kernels

    kernels = (
        gpu_kernels.forward,
        gpu_gradient_kernels.taps_gradient,
        gpu_gradient_kernels.tap_boxes,
        gpu_gradient_kernels.values_gradient,
    )
    counts = []
    for size in ((1, 1, 1, 1), (2, 8, 8, 3), (3, 17, 5, 2), (5, 16, 16, 16)):
        grad, *inputs = draw((*size, 40, 5))
        compare(grad, inputs, "zeros")
        counts.append([len(kernel.device_caches[0][0]) for kernel in kernels])
    assert all(count == counts[0] for count in counts)


def test_without_triton_the_reference_serves_with_one_warning(no_triton: None) -> None:
    grad, *inputs = draw((1, 3, 4, 2, 3, 2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first, second = (run(grad, inputs, "zeros") for _ in range(2))
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 1, messages
    assert "pip install triton" in messages[0]
    assert all(map(torch.equal, first, second))
    assert torch.equal(first[0], reference.deform_sample(*inputs, "zeros"))
    backend, reason = op.backend_and_reason("cuda")
    assert backend == "reference"
    assert "triton cannot be imported" in reason


def test_backend_is_triton() -> None:
    assert op.active_backend("cuda") == "triton"


@pytest.mark.parametrize("which", [1, 3], ids=["values", "weights"])
def test_what_is_not_finite_goes_where_the_reference_has_it(which: int) -> None:
    grad, *inputs = draw((1, 3, 4, 1, 4, 3))
    chosen = (grad, *inputs)[which].view(-1)
    chosen[3:6] = torch.tensor([torch.inf, -torch.inf, torch.nan], device=DEVICE)
    out, _, *of_taps = run(grad, inputs, "zeros")
    _, *expected = reference.deform_sample_backward(grad, *inputs, "zeros")
    compare_patterns([out, *of_taps], [reference.deform_sample(*inputs, "zeros"), *expected])


def test_nan_of_all_ones_is_not_lost_in_half_precision() -> None:
    grad, *inputs = draw((1, 3, 4, 1, 4, 1), torch.bfloat16)
    inputs[1].zero_()
    inputs[2].view(torch.int32)[0, 1, 2] = 2**31 - 1
    _, of_values, *_ = run(grad, inputs, "zeros")
    assert of_values[0, 1, 2].isnan().all()


def test_more_rows_than_32_bits_count_go_to_the_reference() -> None:
    values = torch.empty(2**31, 1, 1, 1, 8, dtype=torch.bfloat16, device="meta")
    taps = torch.empty(2**31, 1, 1, 1, 1, 2, device="meta")
    assert not gpu._serves(values, taps)
    assert gpu._serves(values[1:], taps[1:])
