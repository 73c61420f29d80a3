"""What the kernels of the gradients look at, and in which arithmetic they multiply."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from convflow.ops import launch
from convflow.ops.deform import gpu, reference
from tests.tolerance import assert_close_rms

pytestmark = [
    pytest.mark.skipif(
        launch.find_triton()[0] is None, reason=f"no Triton to run: {launch.find_triton()[1]}"
    ),
    pytest.mark.usefixtures("poisoned", "no_plans"),
]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = pytest.mark.skipif(DEVICE == "cuda", reason="only the interpreter can count")


def draw(*shape: int, taps: int, far: float) -> list[Tensor]:
    """Gradient, values, offsets of up to `far` cells, and weights."""
    grad, values = torch.randn(2, *shape)
    offsets = (2 * torch.rand(*shape[:4], taps, 2) - 1) * far
    return [t.to(DEVICE) for t in (grad, values, offsets, torch.randn(*shape[:4], taps))]


def find_boxes(values: Tensor, offsets: Tensor, weights: Tensor, border: str) -> list[Tensor]:
    """What `tap_boxes` writes."""
    plan = gpu._plan_for(values, offsets, weights, border)
    boxes = torch.empty(*plan.programs, 4, plan.num_taps, dtype=torch.int32, device=DEVICE)
    spans = torch.empty(*plan.programs, 4, dtype=torch.int32, device=DEVICE)
    plan.tap_boxes(*gpu._tensors(values, offsets, weights)[1:], boxes, spans)
    return [boxes, spans]


@pytest.mark.parametrize("border", ["zeros", "truncate"])
@pytest.mark.parametrize("far", [0.0, 3.0, 30.0, 1e9])
def test_boxes_and_spans_hold_what_is_touched(border: str, far: float) -> None:
    _, *inputs = draw(1, 11, 19, 2, 4, taps=3, far=far)
    boxes, spans = find_boxes(*inputs, border)
    offsets = inputs[1].cpu()
    x = offsets[..., 0] + torch.arange(19).view(-1, 1, 1)
    y = offsets[..., 1] + torch.arange(11).view(-1, 1, 1, 1)
    whole = torch.floor if border == "zeros" else torch.trunc
    left, top = whole(x), whole(y)
    touches = (left >= -1) & (left < 19) & (top >= -1) & (top < 11)
    for group in range(2):
        for tile in range(6):
            tile_x, tile_y = tile % 3, tile // 3
            here = (0, slice(8 * tile_y, 8 * tile_y + 8), slice(8 * tile_x, 8 * tile_x + 8), group)
            widest = [-(2**27)] * 4
            for k in range(3):
                real = touches[here][..., k]
                columns, rows = left[here][..., k][real], top[here][..., k][real]
                found = boxes[0, group, tile, :, k].tolist()
                if not len(rows):
                    assert found == [2**30, -(2**30), 2**30, -(2**30)]
                    continue
                assert found == [columns.min(), columns.max(), rows.min(), rows.max()]
                least = columns.clamp(min=0).min() // 8, rows.clamp(min=0).min() // 8
                most = (columns.max() + 1) // 8, (rows.max() + 1) // 8
                span = tile_x - least[0], most[0] - tile_x, tile_y - least[1], most[1] - tile_y
                widest = [max(int(one), other) for one, other in zip(span, widest, strict=True)]
            if widest[0] > -(2**27):
                assert spans[0, group, tile].tolist() == widest
            else:
                assert spans[0, group, tile].max() < -(2**26)


@INTERPRETED
@pytest.mark.parametrize(
    "side", [16, *(pytest.param(side, marks=pytest.mark.slow) for side in (64, 128))]
)
def test_tiles_looked_at_grow_as_the_pixels_do(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taps of less than a tile reach 3 x 3 tiles, however large the map."""
    from convflow.ops.deform import gpu_gradient_kernels

    grad, *inputs = draw(1, side, side, 1, 1, taps=1, far=7.0)
    looks, reaches = [0], gpu_gradient_kernels._reaches

    def count(box: Any, first_x: Any, *others: Any) -> Any:
        """What is looked at, found out of reach so that nothing is multiplied."""
        looks[0] += 1
        return reaches(box, first_x + 2**20, *others)

    monkeypatch.setattr(gpu_gradient_kernels, "_reaches", count)
    gpu.deform_sample_backward(grad, *inputs, "zeros", want_taps=False)
    assert looks[0] == (3 * side // 8 - 2) ** 2


def test_one_far_tap_is_not_lost() -> None:
    grad, *inputs = draw(1, 24, 25, 1, 4, taps=2, far=2.0)
    inputs[1][0, 1, 2, 0, 1] = torch.tensor([20.5, 19.25])
    found = gpu.deform_sample_backward(grad, *inputs, "zeros", want_taps=False)[0]
    assert_close_rms(found, reference.deform_sample_backward(grad, *inputs, "zeros")[0])


@INTERPRETED
def test_shares_in_two_bfloat16_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter multiplies them in float32, so that only the shares are rounded."""
    variants = gpu.variants

    def split(*arguments: Any, **options: Any) -> dict[str, dict[str, Any]]:
        found = variants(*arguments, **options)
        return found | {"values_gradient": found["values_gradient"] | {"PRECISION": "bf16x2"}}

    monkeypatch.setattr(gpu, "variants", split)
    grad, *inputs = draw(1, 9, 10, 1, 8, taps=9, far=3.0)
    found = gpu.deform_sample_backward(grad, *inputs, "zeros", want_taps=False)[0]
    truth = reference.deform_sample_backward(grad, *inputs, "zeros")[0]
    assert_close_rms(found, truth, limit=2**-15)  # the interpreter cuts off; a GPU rounds
    with pytest.raises(AssertionError, match="rms error"):
        assert_close_rms(found, truth)
