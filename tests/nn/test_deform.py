"""The deformable layer: where it samples, what reach does, and that it moves with its input."""

from __future__ import annotations

import pytest
import torch

from convflow.nn.deform import TAPS, GroupwiseMSDCN
from convflow.ops.deform import op, reference
from convflow.types import InputError
from tests.tolerance import GOLDEN, assert_close_rms


def layer_of(width: int, num_groups: int, *, perturbed: bool = False) -> GroupwiseMSDCN:
    layer = GroupwiseMSDCN(width, num_groups).double()
    if perturbed:
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return layer


def offsets_of(layer: GroupwiseMSDCN, x: torch.Tensor, monkeypatch, **arguments) -> torch.Tensor:
    """The offsets that the layer hands to the operator."""
    seen = []

    def spy(values, offsets, weights, border):
        seen.append(offsets)
        return reference.deform_sample(values, offsets, weights, border)

    monkeypatch.setattr(op, "deform_sample", spy)
    layer(x, **arguments)
    return seen[0]


@pytest.mark.parametrize(("groups", "reach"), [(6, 6.0), (4, 3.0), (1, 2.5)])
def test_a_new_layer_samples_plain_grids_from_near_to_far(groups, reach, monkeypatch):
    layer = layer_of(2 * groups, groups)
    x = torch.randn(2, 3, 4, 2 * groups, dtype=torch.float64)
    offsets = offsets_of(layer, x, monkeypatch, reach=reach)
    assert offsets.shape == (2, 3, 4, groups, TAPS, 2)
    for g in range(groups):
        spacing = reach * (g + 1) / groups
        grid = [[spacing * i, spacing * j] for j in (-1, 0, 1) for i in (-1, 0, 1)]
        expected = torch.tensor(grid, dtype=torch.float64).expand(2, 3, 4, TAPS, 2)
        # The published prior keeps 1e-4 below the reach, so that its logit is finite.
        torch.testing.assert_close(offsets[..., g, :, :], expected, rtol=0, atol=1.1e-4 * reach)


def test_offsets_are_the_published_formula(monkeypatch):
    layer, x = layer_of(8, 2, perturbed=True), torch.randn(1, 3, 4, 8, dtype=torch.float64)
    offsets = offsets_of(layer, x, monkeypatch, reach=5.0)
    bend = (x @ layer.direction.weight.T + layer.direction.bias).view(1, 3, 4, 2, TAPS, 2)
    logit = (x @ layer.scale.weight.T).view(1, 3, 4, 2, TAPS, 1)
    scale = torch.sigmoid(logit + layer.prior_scale.view(2, 1, 1))
    assert_close_rms(offsets, (bend + reference.prior_grid().double()) * scale * 5.0)


def test_reach_acts_per_axis(monkeypatch):
    layer, x = layer_of(8, 2, perturbed=True), torch.randn(1, 3, 4, 8, dtype=torch.float64)
    base = offsets_of(layer, x, monkeypatch, reach=1.0)
    for reach in ((2.0, 7.0), torch.tensor([2.0, 7.0])):
        wide = offsets_of(layer, x, monkeypatch, reach=reach)
        assert_close_rms(wide, base * torch.tensor([2.0, 7.0], dtype=torch.float64))
    assert_close_rms(offsets_of(layer, x, monkeypatch, reach=torch.tensor(3.0)), base * 3)
    assert_close_rms(offsets_of(layer, x, monkeypatch), base * 6)


@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, 2), (3, 1)])
def test_it_moves_with_its_input_away_from_the_border(down, right):
    layer = layer_of(8, 2, perturbed=True)
    x = torch.zeros(1, 24, 28, 8, dtype=torch.float64)
    x[:, 10:14, 11:15] = torch.randn(4, 4, 8, dtype=torch.float64)
    moved = layer(x.roll((down, right), (1, 2)), reach=2.0)
    expected = layer(x, reach=2.0).roll((down, right), (1, 2))
    inner = (slice(None), slice(7, -7), slice(7, -7))
    assert_close_rms(moved[inner], expected[inner])


def test_the_whole_layer_against_its_parts(monkeypatch):
    layer, x = layer_of(8, 2, perturbed=True), torch.randn(2, 3, 4, 8, dtype=torch.float64)
    weights = layer.weight(x).view(2, 3, 4, 2, TAPS)
    values = layer.value(x).view(2, 3, 4, 2, 4)
    actual, offsets = layer(x), offsets_of(layer, x, monkeypatch)
    out = reference.deform_sample(values, offsets, weights, "zeros")
    assert_close_rms(actual, layer.out(out.flatten(-2)))


@pytest.mark.parametrize(
    "reach", [6.0, (2.0, 7.0), torch.tensor(3.0), torch.tensor([[2.0, 7.0], [3.0, 1.0]])], ids=str
)
def test_the_fused_operator_gives_what_the_composition_gives(reach, monkeypatch):
    """As on devices with a kernel for it; here its reference runs in the kernel's place."""
    layer, x = layer_of(8, 2, perturbed=True), torch.randn(2, 3, 4, 8, dtype=torch.float64)
    x.requires_grad_()
    leaves = [x, *layer.parameters()]
    expected = layer(x, reach)
    truths = torch.autograd.grad(expected.square().sum(), leaves)
    monkeypatch.setattr(op, "fuses", lambda values: True)
    monkeypatch.setattr(op, "deform_sample", None)
    actual = layer(x, reach)
    assert_close_rms(actual, expected)
    for one, other in zip(torch.autograd.grad(actual.square().sum(), leaves), truths, strict=True):
        assert_close_rms(one, other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_layer_on_the_gpu_equals_that_on_the_cpu():
    layer, x = layer_of(8, 2, perturbed=True), torch.randn(2, 3, 4, 8)
    expected = layer(x.double())
    assert_close_rms(layer.float().cuda()(x.cuda()), expected, limit=GOLDEN)


@pytest.mark.parametrize("name", ["value", "direction", "scale", "weight"])
def test_adapters_and_hooks_of_its_products_have_their_say(name):
    layer, x = layer_of(8, 2, perturbed=True), torch.randn(2, 3, 4, 8, dtype=torch.float64)
    expected, plain, heard = layer(x), getattr(layer, name), []
    hook = plain.register_forward_hook(lambda *_: heard.append(name))
    assert_close_rms(layer(x), expected)
    assert heard == [name]
    hook.remove()
    setattr(layer, name, torch.nn.Sequential(plain, torch.nn.Tanh()))
    assert not torch.allclose(layer(x), expected)


def test_only_the_weights_bias_starts_at_random_beside_the_projections():
    layer = GroupwiseMSDCN(8, 2)
    zero = {name for name, p in layer.named_parameters() if not p.any()}
    assert zero == {
        *("value.bias", "out.bias", "direction.weight", "direction.bias"),
        *("scale.weight", "weight.weight"),
    }


def test_sizes_and_options_that_do_not_fit_are_refused(unchecked):
    with pytest.raises(InputError, match="width that num_groups divides, got width 8 and num_gro"):
        GroupwiseMSDCN(8, 3)
    with pytest.raises(InputError, match=r"unknown border 'zero'; did you mean 'zeros'\?"):
        GroupwiseMSDCN(8, 2, "zero")
    for reach in ((1.0, 2.0, 3.0), torch.ones(3), torch.ones(2, 2)):
        with pytest.raises(InputError, match=r"reach of one number or \(x, y\), got shape \("):
            GroupwiseMSDCN(8, 2)(torch.zeros(1, 2, 2, 8), reach)
