"""The reference against grid_sample, a scalar loop, autograd and published kernels' outputs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from convflow.ops.deform import reference
from tests.tolerance import assert_close_rms

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
BORDERS = ["zeros", "truncate"]
GOLDENS = sorted((Path(__file__).parents[2] / "goldens").glob("msdcn_op_*.safetensors"))


def draw(
    *shape: int, taps: int = 3, dtype: torch.dtype = torch.float64, spread: float = 3.0
) -> list[Tensor]:
    """Values, offsets and weights; offsets stay off whole numbers, where the slope jumps."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(shape, generator=generator, dtype=dtype)
    steps = (torch.randn(*shape[:4], taps, 2, generator=generator) * spread).round()
    offsets = steps.to(dtype) + 0.1 + 0.8 * torch.rand(steps.shape, generator=generator).to(dtype)
    return [values, offsets, torch.randn(*shape[:4], taps, generator=generator, dtype=dtype)]


def composite(values: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """The same sums by way of `grid_sample`."""
    batch, height, width, groups, channels = values.shape
    taps = weights.shape[-1]
    size = offsets.new_tensor([width, height])
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    cells = torch.stack((x, y), -1).to(offsets)[:, :, None, None] + offsets
    grid = ((2 * cells + 1) / size - 1).permute(0, 3, 1, 2, 4, 5)
    samples = F.grid_sample(
        values.permute(0, 3, 4, 1, 2).flatten(0, 1),
        grid.reshape(batch * groups, height * width, taps, 2),
        align_corners=False,
    )
    factors = weights.permute(0, 3, 1, 2, 4).reshape(batch * groups, 1, height * width, taps)
    total = (samples * factors).sum(-1).view(batch, groups, channels, height, width)
    return total.permute(0, 3, 4, 1, 2)


def scalar_loop(values: Tensor, offsets: Tensor, weights: Tensor, border: str) -> Tensor:
    """The formula with Python numbers, one corner at a time."""
    out = torch.zeros_like(values)
    height, width = values.shape[1:3]
    for b, y, x, g, k in torch.cartesian_prod(*map(torch.arange, weights.shape)).tolist():
        at_x, at_y = x + offsets[b, y, x, g, k, 0].item(), y + offsets[b, y, x, g, k, 1].item()
        whole = math.floor if border == "zeros" else int
        left, top = whole(at_x), whole(at_y)
        for column, share_x in ((left, 1 - (at_x - left)), (left + 1, at_x - left)):
            for row, share_y in ((top, 1 - (at_y - top)), (top + 1, at_y - top)):
                if 0 <= column < width and 0 <= row < height:
                    share = weights[b, y, x, g, k] * share_x * share_y
                    out[b, y, x, g] += share * values[b, row, column, g]
    return out


def gradients(function, inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    return list(torch.autograd.grad(function(*leaves), leaves, grad))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_grid_sample_with_its_gradients(device: str, dtype: torch.dtype) -> None:
    inputs = [tensor.to(device) for tensor in draw(2, 7, 5, 3, 4, dtype=dtype)]
    grad = torch.randn_like(inputs[0])
    expected = composite(*inputs)
    assert_close_rms(reference.deform_sample(*inputs, "zeros"), expected)
    truths = gradients(composite, inputs, grad)
    for actual, truth in zip(
        reference.deform_sample_backward(grad, *inputs, "zeros"), truths, strict=True
    ):
        assert_close_rms(actual, truth)


@pytest.mark.parametrize("border", BORDERS)
def test_equals_the_scalar_loop(border: str) -> None:
    inputs = draw(1, 4, 5, 2, 3)
    assert_close_rms(
        reference.deform_sample(*inputs, border), scalar_loop(*inputs, border), torch.float64
    )


def test_borders_differ_only_left_and_above() -> None:
    values, offsets, weights = draw(1, 8, 8, 1, 2)
    away = reference.deform_sample(values, offsets.abs(), weights, "zeros")
    assert_close_rms(reference.deform_sample(values, offsets.abs(), weights, "truncate"), away)
    near = reference.deform_sample(values, -offsets.abs(), weights, "zeros")
    other = reference.deform_sample(values, -offsets.abs(), weights, "truncate")
    assert (near - other).norm() > 0.1 * near.norm()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_golden_outputs_of_the_published_kernels(
    device: str, path: Path, dtype: torch.dtype
) -> None:
    golden = {name: tensor.to(device, dtype) for name, tensor in load_file(path).items()}
    inputs = [golden[f"in.{name}"] for name in ("value", "offset_xy", "weight")]
    out = reference.deform_sample(*inputs, "truncate")
    grads = reference.deform_sample_backward(golden["in.grad_out"], *inputs, "truncate")
    for actual, name in zip(
        (out, *grads), ("out", "grad_value", "grad_offset_xy", "grad_weight"), strict=True
    ):
        assert_close_rms(actual, golden[f"out.{name}"], torch.float32)


def test_both_goldens_are_there() -> None:
    assert len(GOLDENS) == 2


@pytest.mark.parametrize("border", BORDERS)
def test_zero_offsets_only_weigh(border: str) -> None:
    values, offsets, weights = draw(2, 3, 4, 2, 5)
    out = reference.deform_sample(values, torch.zeros_like(offsets), weights, border)
    assert_close_rms(out, values * weights.sum(-1, keepdim=True))


def test_whole_offsets_shift() -> None:
    values, offsets, _ = draw(1, 6, 6, 1, 2, taps=1)
    offsets = torch.zeros_like(offsets) + torch.tensor([2.0, -1.0])
    out = reference.deform_sample(values, offsets, torch.ones_like(offsets[..., 0]), "zeros")
    assert torch.equal(out[:, 1:, :-2], values[:, :-1, 2:])
    assert not out[:, 0].any()
    assert not out[:, :, -2:].any()


@pytest.mark.parametrize("border", BORDERS)
def test_explicit_backward_equals_autograd_of_the_forward(border: str) -> None:
    inputs = draw(2, 4, 3, 2, 3, taps=5)
    grad = torch.randn_like(inputs[0])
    expected = gradients(lambda *t: reference.deform_sample(*t, border), inputs, grad)
    actual = reference.deform_sample_backward(grad, *inputs, border)
    for one, other in zip(actual, expected, strict=True):
        assert_close_rms(one, other)


@pytest.mark.parametrize("border", BORDERS)
def test_gradcheck_forward_reverse_and_twice(border: str) -> None:
    leaves = tuple(tensor.requires_grad_() for tensor in draw(1, 3, 2, 2, 2, taps=2, spread=1))

    def function(*tensors: Tensor) -> Tensor:
        return reference.deform_sample(*tensors, border)

    assert torch.autograd.gradcheck(function, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("far", [1e9, -1e9, 1e38, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("border", BORDERS)
def test_far_offsets_add_nothing(device: str, far: float, border: str) -> None:
    values, offsets, weights = (tensor.to(device) for tensor in draw(1, 3, 4, 2, 3))
    offsets[..., 1, 0] = far
    offsets[..., 2, 1] = far
    out = reference.deform_sample(values, offsets, weights, border)
    alone = reference.deform_sample(values, offsets[..., :1, :], weights[..., :1], border)
    assert torch.equal(out, alone)
    _, grad_offsets, grad_weights = reference.deform_sample_backward(
        torch.ones_like(values), values, offsets, weights, border
    )
    assert not grad_offsets[..., 1:, :].any()
    assert not grad_weights[..., 1:].any()
    assert grad_offsets[..., 0, :].any()


def test_an_outside_tap_is_looked_at_by_no_weight_and_no_gradient() -> None:
    values, offsets, weights = draw(1, 3, 4, 2, 3)
    offsets[..., 1, :], weights[..., 1] = 1e9, math.inf
    upstream = torch.full_like(values, math.inf)
    out = reference.deform_sample(values, offsets, weights, "zeros")
    assert out.isfinite().all()
    _, *grads = reference.deform_sample_backward(upstream, values, offsets, weights, "zeros")
    assert not any(grad[..., 1, :].any() for grad in (grads[0], grads[1].unsqueeze(-1)))


@pytest.mark.parametrize("shape", [(2, 3, 3, 2, 4, 0), (2, 3, 3, 0, 4, 0), (0, 0, 3, 2, 0, 9)])
def test_nothing_to_sum_has_gradients_of_zero(shape: tuple[int, ...]) -> None:
    *sizes, taps = shape
    leaves = [tensor.requires_grad_() for tensor in draw(*sizes, taps=taps)]
    out = reference.deform_sample(*leaves, "zeros")
    assert not out.any()
    for grad, leaf in zip(torch.autograd.grad(out.sum(), leaves), leaves, strict=True):
        assert grad.shape == leaf.shape
        assert not grad.any()
