"""The public operator: its gradients, what it refuses, and what PyTorch asks of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from convflow.ops import depthwise_conv
from convflow.ops.depthwise import op, reference
from convflow.types import InputError
from tests.tolerance import assert_close_rms

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def draw(*shape: int, side: int = 3, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Features, weight and bias, leaves that want gradients."""
    channels = shape[-1]
    tensors = torch.randn(shape), torch.randn(channels, 1, side, side), torch.randn(channels)
    return [tensor.to(dtype).requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("has_bias", [False, True])
def test_gradcheck(device: str, has_bias: bool) -> None:
    leaves = draw(2, 3, 2, 2, dtype=torch.float64)[: 2 + has_bias]
    leaves = [leaf.detach().to(device).requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(depthwise_conv, leaves)


@pytest.mark.parametrize("device", DEVICES)
def test_permuted_inputs_and_the_gradient_of_a_sum(device: str) -> None:
    """A sum sends back an expanded gradient with strides of zero."""
    x, weight, bias = (tensor.detach().to(device) for tensor in draw(2, 6, 5, 8))
    turned = [x.transpose(1, 3).contiguous().transpose(1, 3), weight.mT.contiguous().mT, bias]
    leaves = [tensor.requires_grad_() for tensor in turned]
    out = depthwise_conv(*leaves)
    assert out.is_contiguous()
    truth = reference.depthwise_conv(*leaves)
    assert_close_rms(out, truth)
    expected = torch.autograd.grad(truth.sum(), leaves)
    for one, other in zip(torch.autograd.grad(out.sum(), leaves), expected, strict=True):
        assert_close_rms(one, other)


@pytest.mark.parametrize(
    ("needed", "flags"), [((0,), (True, False)), ((1,), (False, True)), ((2,), (False, True))]
)
def test_only_the_gradients_that_are_needed_are_asked_for(
    needed: tuple[int, ...], flags: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, backward = [], op._conv_backward
    leaves = draw(2, 6, 5, 8)
    truths = torch.autograd.grad(depthwise_conv(*leaves).square().sum(), leaves)
    for place, leaf in enumerate(leaves):
        leaf.requires_grad_(place in needed)

    def spy(*arguments: object) -> object:
        asked.append(arguments[-2:])
        return backward(*arguments)

    monkeypatch.setattr(op, "_conv_backward", spy)
    wanted = [leaves[place] for place in needed]
    found = torch.autograd.grad(depthwise_conv(*leaves).square().sum(), wanted)
    assert asked == [flags]
    for one, place in zip(found, needed, strict=True):
        assert_close_rms(one, truths[place])


def test_an_empty_batch_passes_through() -> None:
    leaves = draw(0, 4, 4, 8)
    out = depthwise_conv(*leaves)
    out.sum().backward()
    assert out.shape == (0, 4, 4, 8)
    assert all(leaf.grad.shape == leaf.shape for leaf in leaves)


@pytest.mark.parametrize(
    ("features", "others"),
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float32),
        (torch.float32, torch.float64),
        (torch.float64, torch.float32),
    ],
)
def test_dtypes(features: torch.dtype, others: torch.dtype) -> None:
    x, weight, bias = (tensor.detach() for tensor in draw(2, 4, 5, 3))
    leaves = [x.to(features), weight.to(others), bias.to(others)]
    out = depthwise_conv(*(leaf.requires_grad_() for leaf in leaves))
    out.sum().backward()
    assert out.dtype == features
    assert [leaf.grad.dtype for leaf in leaves] == [features, others, others]
    assert_close_rms(out, reference.depthwise_conv(*(leaf.detach().double() for leaf in leaves)))


def test_autocast_changes_nothing() -> None:
    leaves = draw(2, 4, 5, 3)
    with torch.autocast("cpu", torch.bfloat16):
        out = depthwise_conv(*leaves)
    assert torch.equal(out, depthwise_conv(*leaves))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, w, b: (x[0], w, b), r"x: expected 4 dimensions \(B, H, W, C\), got \(4, 5, 3\)"),
        (lambda x, w, b: (x, w[:2], b), r"weight: expected shape \(3, 1, k, k\) .* got \(2, 1, 3"),
        (lambda x, w, b: (x, w[..., :2], b), r"weight: .* an odd k of at most 9 .* got \(3, 1, 3,"),
        (
            lambda x, w, b: (x, torch.ones(3, 1, 11, 11), b),
            r"weight: .* got \(3, 1, 11, 11\); give",
        ),
        (lambda x, w, b: (x, torch.tensor(1.0), b), r"weight: .* got \(\); give"),
        (
            lambda x, w, b: (x, w, b[:1]),
            r"bias: expected shape \(3,\) to fit x .* got \(1,\); give",
        ),
        (lambda x, w, b: (x.long(), w, b), "x: expected a floating dtype, got torch.int64"),
        (lambda x, w, b: (x, w, b.to("meta")), "bias: expected device cpu as of x, got meta"),
    ],
)
def test_wrong_inputs_say_which_and_why(change, message: str) -> None:
    with pytest.raises(InputError, match=message):
        depthwise_conv(*change(*draw(2, 4, 5, 3)))


@pytest.mark.parametrize("has_bias", [False, True])
def test_opcheck(has_bias: bool) -> None:
    x, weight, bias = draw(2, 4, 5, 3)
    torch.library.opcheck(op._conv, (x, weight, bias if has_bias else None))
    inputs = (torch.randn(2, 4, 5, 3), x.detach(), weight.detach())
    for wanted in ((), (True, False), (False, True)):
        torch.library.opcheck(op._conv_backward, (*inputs, *wanted))


def test_meta_tensors_have_shapes() -> None:
    assert depthwise_conv(*(leaf.to("meta") for leaf in draw(2, 4, 5, 3))).shape == (2, 4, 5, 3)


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_once_for_all_sizes(device: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *tensors: depthwise_conv(*tensors).square(), fullgraph=True, backend="aot_eager"
    )
    for number, size in enumerate([(5, 6, 7), (3, 4, 4), (4, 9, 6)]):
        leaves = [leaf.detach().to(device).requires_grad_() for leaf in draw(*size, 3)]
        for axis in range(3):
            torch._dynamo.mark_dynamic(leaves[0], axis)
        with torch.compiler.set_stance("fail_on_recompile" if number else "default"):
            actual = compiled(*leaves)
            grads = torch.autograd.grad(actual.sum(), leaves)
        expected = depthwise_conv(*leaves).square()
        truths = torch.autograd.grad(expected.sum(), leaves)
        for one, other in zip((actual, *grads), (expected, *truths), strict=True):
            assert_close_rms(one, other)


def test_transforms_and_exports_take_torchs_own() -> None:
    leaves = draw(2, 4, 5, 3)
    truths = torch.autograd.grad(depthwise_conv(*leaves).sum(), leaves)
    inputs = tuple(leaf.detach() for leaf in leaves)
    pull = torch.func.vjp(depthwise_conv, *inputs)[1]
    for one, other in zip(pull(torch.ones_like(inputs[0])), truths, strict=True):
        assert_close_rms(one, other)
    out, slope = torch.func.jvp(depthwise_conv, inputs, inputs)
    assert_close_rms(slope, 2 * out - inputs[2])

    class Layer(torch.nn.Module):
        def forward(self, *tensors: Tensor) -> Tensor:
            return depthwise_conv(*tensors)

    program = torch.export.export(Layer(), inputs)
    assert "convflow" not in program.graph_module.code
    assert_close_rms(program.module()(*inputs), depthwise_conv(*inputs))


def test_a_second_backward_is_refused_with_a_way_out() -> None:
    leaves = draw(1, 3, 3, 2)
    first = torch.autograd.grad(depthwise_conv(*leaves).square().sum(), leaves, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"reference\.depthwise_conv"):
        first[0].sum().backward()
