"""The public operator: its borders, its gradients of every kind, and what PyTorch asks of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.autograd import forward_ad

from convflow.ops import deform_sample
from convflow.ops.deform import op, reference
from convflow.types import InputError
from tests.tolerance import assert_close_rms

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
BORDERS = ["zeros", "truncate"]
GOLDENS = Path(__file__).parents[2] / "goldens"


def draw(
    *shape: int, taps: int = 3, dtype: torch.dtype = torch.float32, grad: bool = False
) -> list[Tensor]:
    """Values, offsets and weights; offsets stay off whole numbers, where the slope jumps."""
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(shape, generator=generator).to(dtype)
    steps = (torch.randn(*shape[:4], taps, 2, generator=generator) * 2).round()
    offsets = (steps + 0.1 + 0.8 * torch.rand(steps.shape, generator=generator)).to(dtype)
    weights = torch.randn(*shape[:4], taps, generator=generator).to(dtype)
    return [tensor.requires_grad_(grad) for tensor in (values, offsets, weights)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("index", [0, 1])
def test_golden_outputs_of_the_published_kernels(device: str, index: int) -> None:
    golden = load_file(GOLDENS / f"msdcn_op_{index}.safetensors", device)
    leaves = [golden[f"in.{name}"].requires_grad_() for name in ("value", "offset_xy", "weight")]
    out = deform_sample(*leaves, border="truncate")
    out.backward(golden["in.grad_out"])
    assert_close_rms(out, golden["out.out"])
    for leaf, name in zip(leaves, ("value", "offset_xy", "weight"), strict=True):
        assert_close_rms(leaf.grad, golden[f"out.grad_{name}"])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("border", BORDERS)
def test_gradcheck(device: str, border: str) -> None:
    leaves = [
        tensor.to(device).requires_grad_()
        for tensor in draw(1, 3, 2, 2, 2, taps=2, dtype=torch.float64)
    ]
    assert torch.autograd.gradcheck(
        lambda *tensors: deform_sample(*tensors, border), leaves, check_forward_ad=True
    )


@pytest.mark.parametrize("border", BORDERS)
def test_gradients_of_a_sum_and_of_permuted_inputs(border: str) -> None:
    """A sum sends back an expanded gradient with strides of zero."""
    leaves = [tensor.transpose(1, 2).detach().requires_grad_() for tensor in draw(2, 4, 5, 2, 3)]
    out = deform_sample(*leaves, border)
    assert out.is_contiguous()
    actual = torch.autograd.grad(out.sum(), leaves)
    expected = torch.autograd.grad(reference.deform_sample(*leaves, border).sum(), leaves)
    for one, other in zip(actual, expected, strict=True):
        assert_close_rms(one, other)


@pytest.mark.parametrize(
    ("needed", "flags"),
    [((0,), (True, False)), ((1,), (False, True)), ((2,), (False, True)), ((0, 2), (True, True))],
)
def test_only_the_gradients_that_are_needed_are_asked_for(
    needed: tuple[int, ...], flags: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, backward = [], op._sample_backward
    leaves = draw(2, 4, 5, 2, 3, grad=True)
    truths = torch.autograd.grad(deform_sample(*leaves).sum(), leaves)
    for place, leaf in enumerate(leaves):
        leaf.requires_grad_(place in needed)

    def spy(*arguments: object) -> object:
        asked.append(arguments[-2:])
        return backward(*arguments)

    monkeypatch.setattr(op, "_sample_backward", spy)
    wanted = [leaves[place] for place in needed]
    found = torch.autograd.grad(deform_sample(*leaves).sum(), wanted)
    assert asked == [flags]
    for one, place in zip(found, needed, strict=True):
        assert one.equal(truths[place])


def test_an_empty_batch_passes_through() -> None:
    leaves = draw(0, 4, 4, 2, 8, grad=True)
    out = deform_sample(*leaves)
    out.sum().backward()
    assert out.shape == (0, 4, 4, 2, 8)
    assert all(leaf.grad.shape == leaf.shape for leaf in leaves)


@pytest.mark.parametrize(
    ("features", "others", "computed"),
    [
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float16, torch.float32, torch.float32),
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.float32, torch.float64, torch.float32),
        (torch.float64, torch.float32, torch.float64),
    ],
)
def test_dtypes(features: torch.dtype, others: torch.dtype, computed: torch.dtype) -> None:
    values, offsets, weights = draw(2, 4, 5, 2, 3)
    leaves = [
        tensor.to(dtype).requires_grad_()
        for tensor, dtype in ((values, features), (offsets, others), (weights, others))
    ]
    out = deform_sample(*leaves)
    out.sum().backward()
    assert out.dtype == features
    assert [leaf.grad.dtype for leaf in leaves] == [features, others, others]
    exact = reference.deform_sample(*(leaf.detach().to(computed) for leaf in leaves), "zeros")
    assert_close_rms(out, exact)


def test_under_autocast_offsets_are_float32_and_the_result_has_the_values_dtype() -> None:
    values, offsets, weights = draw(2, 4, 5, 2, 3)
    expected = deform_sample(values, offsets, weights)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(deform_sample(values, offsets, weights), expected)
        half = deform_sample(values.bfloat16(), offsets, weights)
    assert half.dtype == torch.bfloat16
    assert_close_rms(half, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, o, w: (v[0], o, w), r"values: expected 5 dimensions \(B, H, W, G, C\), got \("),
        (lambda v, o, w: (v, o[..., :1], w), r"offsets: expected shape \(2, 4, 5, 2, 3, 2\)"),
        (lambda v, o, w: (v, o[:1], w), r"offsets: expected shape .* got \(1, 4, 5, 2, 3, 2\)"),
        (lambda v, o, w: (v, o, w[..., 0]), r"weights: expected shape \(2, 4, 5, 2, 2\) .* got \("),
        (lambda v, o, w: (v, o[..., :2, :], w), r"offsets: expected shape .*, got"),
        (lambda v, o, w: (v.long(), o, w), r"values: expected a floating dtype, got torch.int64"),
        (lambda v, o, w: (v, o.to("meta"), w), r"offsets: expected device cpu .* got meta"),
        (lambda v, o, w: (v, o, w, "reflect"), r'border: expected "zeros" or "truncate", got'),
    ],
)
def test_wrong_inputs_say_which_and_why(change, message: str) -> None:
    with pytest.raises(InputError, match=message):
        deform_sample(*change(*draw(2, 4, 5, 2, 3)))


@pytest.mark.parametrize("border", BORDERS)
def test_opcheck(border: str) -> None:
    leaves = draw(2, 4, 5, 2, 3, grad=True)
    torch.library.opcheck(op._sample, (*leaves, border))
    doubled = [leaf.detach() for leaf in leaves] * 2
    torch.library.opcheck(op._sample_tangent, (*doubled, border))
    detached = [leaf.detach() for leaf in leaves]
    for wanted in ((), (True, False), (False, True)):
        inputs = (torch.randn(2, 4, 5, 2, 3), *detached, border, *wanted)
        torch.library.opcheck(op._sample_backward, inputs)


def test_meta_tensors_have_shapes() -> None:
    inputs = [tensor.to("meta") for tensor in draw(2, 4, 5, 2, 3)]
    assert deform_sample(*inputs).shape == (2, 4, 5, 2, 3)


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_once_for_all_sizes(device: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *tensors: deform_sample(*tensors).square(), fullgraph=True, backend="aot_eager"
    )
    sizes = [(5, 6, 7), (3, 4, 4), (4, 9, 6), (6, 3, 8), (7, 5, 5)]
    for number, size in enumerate(sizes):
        leaves = [tensor.to(device).requires_grad_() for tensor in draw(*size, 2, 3)]
        for leaf in leaves:
            for axis in range(3):
                torch._dynamo.mark_dynamic(leaf, axis)
        with torch.compiler.set_stance("fail_on_recompile" if number else "default"):
            actual = compiled(*leaves)
            grads = torch.autograd.grad(actual.sum(), leaves)
        expected = deform_sample(*leaves).square()
        truths = torch.autograd.grad(expected.sum(), leaves)
        for one, other in zip((actual, *grads), (expected, *truths), strict=True):
            assert_close_rms(one, other)


@pytest.mark.parametrize("border", BORDERS)
def test_jvp_agrees_with_differences_and_reverse_mode(border: str) -> None:
    inputs = tuple(draw(2, 4, 5, 2, 3, dtype=torch.float64))
    tangents = tuple(torch.randn_like(tensor) for tensor in inputs)

    def function(*tensors: Tensor) -> Tensor:
        return deform_sample(*tensors, border)

    out, slope = torch.func.jvp(function, inputs, tangents)
    assert_close_rms(out, function(*inputs))
    step = 1e-6
    ahead, behind = (
        function(*(x + sign * step * t for x, t in zip(inputs, tangents, strict=True)))
        for sign in (1, -1)
    )
    assert_close_rms(slope, (ahead - behind) / (2 * step), torch.float32)
    grad, leaves = torch.randn_like(out), [tensor.clone().requires_grad_() for tensor in inputs]
    pulled = torch.autograd.grad(function(*leaves), leaves, grad)
    reverse = sum((p * t).sum() for p, t in zip(pulled, tangents, strict=True))
    assert_close_rms((grad * slope).sum(), reverse)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dual", [(0, 1, 2), (1,)])
def test_dual_numbers_without_gradients_take_the_kernel(
    dual: tuple[int, ...], dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [tensor.to(device) for tensor in draw(2, 4, 5, 2, 3)]
    inputs[0] = inputs[0].to(dtype)
    tangents = [torch.randn_like(inputs[place]) for place in dual]

    def of(*some: Tensor) -> Tensor:
        given = list(inputs)
        for place, tensor in zip(dual, some, strict=True):
            given[place] = tensor
        return deform_sample(*given)

    leaves = tuple(inputs[place] for place in dual)
    out, slope = torch.func.jvp(of, leaves, tuple(tangents))
    taken, tangent = [], op._sample_tangent
    monkeypatch.setattr(op, "_sample_tangent", lambda *a: taken.append(True) or tangent(*a))
    for grad in (False, True):
        with forward_ad.dual_level(), torch.set_grad_enabled(grad):
            pairs = [forward_ad.make_dual(*pair) for pair in zip(leaves, tangents, strict=True)]
            found = forward_ad.unpack_dual(of(*pairs))
            assert found.primal.dtype == found.tangent.dtype == dtype
            assert_close_rms(found.primal, out)
            assert_close_rms(found.tangent, slope)
    assert taken == [True, True]  # nothing wants a gradient
    leaf = leaves[0].clone().requires_grad_()
    with forward_ad.dual_level():
        pair = forward_ad.make_dual(leaf, tangents[0])
        forward_ad.unpack_dual(of(pair, *leaves[1:])).tangent.sum().backward()
    assert leaf.grad is not None  # a gradient of a tangent: by the reference
    assert len(taken) == 2


def test_reverse_transforms_take_the_reference() -> None:
    inputs = draw(2, 4, 5, 2, 3)
    pull = torch.func.vjp(deform_sample, *inputs)[1]
    leaves = [tensor.requires_grad_() for tensor in inputs]
    truths = torch.autograd.grad(deform_sample(*leaves).sum(), leaves)
    for one, other in zip(pull(torch.ones_like(inputs[0])), truths, strict=True):
        assert_close_rms(one, other)


def test_a_second_backward_is_refused_with_a_way_out() -> None:
    leaves = draw(1, 3, 3, 1, 2, grad=True)
    first = torch.autograd.grad(deform_sample(*leaves).square().sum(), leaves, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"reference\.deform_sample"):
        first[0].sum().backward()


def draw_merged(rows: int = 2, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Values of 2 groups of 3 channels with their heads, prior and reach."""
    merged, prior, reach = torch.randn(2, 4, 5, 6 + 72), torch.randn(2), 1 + torch.rand(rows, 2)
    return [tensor.to(dtype).requires_grad_() for tensor in (merged, prior, reach)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("border", BORDERS)
def test_heads_are_read_as_the_formula_says(border: str, rows: int, device: str) -> None:
    inputs = [tensor.detach().to(device).requires_grad_() for tensor in draw_merged(rows)]
    merged, prior, reach = inputs
    values, direction, scale, weights = merged.split([6, 36, 18, 18], -1)
    values = values.reshape(2, 4, 5, 2, 3)
    steps = torch.tensor([-1.0, 0.0, 1.0], device=device)
    grid = torch.stack([torch.stack((x, y)) for y in steps for x in steps])
    scale = torch.sigmoid(scale.view(2, 4, 5, 2, 9) + prior.view(2, 1))
    offsets = (direction.view(2, 4, 5, 2, 9, 2) + grid) * scale[..., None]
    offsets = offsets * reach.view(rows, 1, 1, 1, 1, 2)
    expected = deform_sample(values, offsets, weights.reshape(2, 4, 5, 2, 9), border).flatten(3)
    actual = op.msdcn_sample(*inputs, border)
    assert_close_rms(actual, expected)
    truths = torch.autograd.grad(expected.square().sum(), inputs)
    for one, other in zip(torch.autograd.grad(actual.square().sum(), inputs), truths, strict=True):
        assert_close_rms(one, other)


@pytest.mark.parametrize("features", [torch.float32, torch.bfloat16, torch.float64])
def test_heads_by_the_operator_equal_the_composition(
    features: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator's default kernel is the reference; on a GPU Triton's is in its place."""
    *inputs, reach = draw_merged(dtype=features)
    composed = op.msdcn_sample(*inputs, reach.detach())
    truths = torch.autograd.grad(composed.sum(), inputs)
    monkeypatch.setattr(op, "fuses", lambda values: True)
    called = op.msdcn_sample(*inputs, reach.detach())
    assert "msdcn" in str(called.grad_fn), "the operator was not called"
    assert called.dtype == features
    assert_close_rms(called, composed)
    for one, other in zip(torch.autograd.grad(called.sum(), inputs), truths, strict=True):
        assert one.dtype == other.dtype
        assert_close_rms(one, other)


def test_a_gradient_of_the_reach_takes_the_composition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op, "fuses", lambda values: True)
    inputs = draw_merged()
    op.msdcn_sample(*inputs).sum().backward()
    assert inputs[-1].grad.any()


@pytest.mark.slow
def test_opcheck_of_heads() -> None:
    *leaves, reach = draw_merged()
    torch.library.opcheck(op._msdcn, (*leaves, reach.detach(), "zeros"))
    detached = [tensor.detach() for tensor in (*leaves, reach)]
    torch.library.opcheck(op._msdcn_backward, (torch.randn(2, 4, 5, 6), *detached, "truncate"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, p, r: (m[0], p, r), r"merged: expected shape .* got \(4, 5, 78\)"),
        (lambda m, p, r: (m[..., 1:], p, r), r"merged: expected shape .* got \(2, 4, 5, 77\)"),
        (lambda m, p, r: (m[..., 7:], p, r), r"merged: .* D values that G divides"),
        (lambda m, p, r: (m, p[0], r), r"a prior_scale of shape \(\); give one prior for each"),
        (lambda m, p, r: (m, p, r[0]), r"reach: expected shape \(1, 2\) or \(2, 2\)"),
        (lambda m, p, r: (m.long(), p, r), r"merged: expected a floating dtype"),
        (lambda m, p, r: (m, p, r, "reflect"), r'border: expected "zeros" or "truncate"'),
    ],
)
def test_wrong_merged_tensors_say_which_and_why(change, message: str) -> None:
    with pytest.raises(InputError, match=message):
        op.msdcn_sample(*change(*draw_merged()))


def test_the_cpu_writes_offsets() -> None:
    assert not op.fuses(torch.zeros(1))


def test_active_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    assert op.active_backend("cpu") == "numba"
    assert op.active_backend("xpu") == "reference"
    monkeypatch.setattr(op, "find_numba", lambda: (None, "numba cannot be imported: no wheel"))
    assert op.backend_and_reason("cpu") == ("reference", "numba cannot be imported: no wheel")


@pytest.mark.parametrize("shape", [(1, 2**24 + 1, 1, 1, 1), (1, 1, 2**24 + 1, 1, 1)])
def test_maps_that_float32_coordinates_cannot_number_are_refused(shape: tuple[int, ...]) -> None:
    values = torch.zeros(1).expand(shape)
    offsets, weights = torch.zeros(1).expand(*shape, 2), torch.zeros(1).expand(shape)
    with pytest.raises(InputError, match="values: expected a height and width of at most 16777216"):
        deform_sample(values, offsets, weights)
    merged = torch.zeros(1).expand(*shape[:3], 37)
    with pytest.raises(InputError, match="merged: expected a height and width of at most 16777216"):
        op.msdcn_sample(merged, torch.zeros(1), torch.ones(1, 2))
