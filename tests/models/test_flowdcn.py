"""FlowDCN: the released module's outputs, reach, the ablations, compilation, moving images."""

from __future__ import annotations

import pytest
import torch

from convflow.models.convert import load_official
from convflow.models.zoo import create_model
from convflow.types import InputError
from tests.cases import TINY, build, inputs, read_golden
from tests.tolerance import GOLDEN, GOLDEN_WORST, assert_close_rms


@pytest.mark.parametrize("keep_half", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_released_module_is_reproduced(keep_half, dtype):
    weights, config, (x, t, y), expected = read_golden("flowdcn_tiny")
    model = load_official(weights, keep_half=keep_half).to(dtype)
    assert (model.num_classes, model.in_channels) == (config["num_classes"], config["in_channels"])
    out = model(x.to(dtype), t.to(dtype), y).double()
    assert_close_rms(out, expected, limit=GOLDEN)
    assert (out - expected).abs().max() < GOLDEN_WORST


def test_the_golden_feels_every_weight():
    """The comparison above cannot pass with a part of the network switched off."""
    weights, _, (x, t, y), expected = read_golden("flowdcn_tiny")
    model = load_official(weights)
    for name, parameter in model.named_parameters():
        before = parameter.detach().clone()
        parameter.data *= 1.01
        error = (model(x, t, y) - expected).norm() / expected.norm()
        parameter.data = before
        assert error > GOLDEN, name


def test_the_border_matters_to_published_weights():
    weights, _, (x, t, y), expected = read_golden("flowdcn_tiny")
    model = load_official(weights)
    for block in model.blocks:
        block.mix.border = "zeros"
    assert (model(x, t, y) - expected).norm() > 1e-2 * expected.norm()


@pytest.mark.parametrize("reach", [6, 6.0, (6.0, 6.0), torch.tensor(6.0), torch.full((2, 2), 6.0)])
def test_the_reach_by_default_is_six(reach):
    model = build("flowdcn")
    assert model(*inputs(model), reach=reach).equal(model(*inputs(model)))


def test_reach_of_the_settings_is_the_default():
    model = create_model("flowdcn", **TINY, reach=2.5)
    assert model._reaches(None) == [2.5, 2.5]


def test_reach_of_each_block_and_axis():
    model = build("flowdcn")
    x, t, y = inputs(model)
    base = model(x, t, y)
    for block in range(2):
        for axis in range(2):
            reach = torch.full((2, 2), 6.0)
            reach[block, axis] = 9.0
            assert not model(x, t, y, reach=reach).equal(base), (block, axis)
    # (x, y): on a map of one row with its taps far above and below, only x can matter.
    row = x[:, :, :2]
    far, farther = ((6.0, reach) for reach in (1e4, 1e5))
    torch.testing.assert_close(model(row, t, y, reach=far), model(row, t, y, reach=farther))


@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (1, 2), (3,)])
def test_a_reach_of_another_shape_is_refused(shape):
    model = build("flowdcn")
    with pytest.raises(InputError, match="expected a reach of"):
        model(*inputs(model), reach=torch.full(shape, 6.0))


def test_it_moves_with_its_input_away_from_the_border():
    model = build("flowdcn").double()
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64)
    t, y = torch.full((1,), 0.3, dtype=torch.float64), torch.tensor([1])
    field = torch.zeros(1, 3, 72, 80, dtype=torch.float64)
    field[:, :, 34:36, 38:40] = x
    out = model(field, t, y, reach=2.0)
    moved = model(field.roll((4, -6), (2, 3)), t, y, reach=2.0)
    inner = (..., slice(24, -24), slice(24, -24))
    assert_close_rms(moved[inner], out.roll((4, -6), (2, 3))[inner])


def test_its_four_parts_make_the_whole():
    model = build("flowdcn")
    x, t, y = inputs(model)
    c = model.condition(t, y)
    assert model.head(model.trunk(model.stem(x), c), c).equal(model(x, t, y))


def test_options_change_the_network(unchecked):
    def count(**options):
        return sum(p.numel() for p in create_model("flowdcn", **TINY | options).parameters())

    assert count(norm="layer") - count() == 2 * 2 * 16  # biases
    assert count(mlp="gelu") - count() == 2 * (2 * 16 * 64 + 64 + 16 - 3 * 16 * 42)
    assert count(discard_half=True) - count() == 3 * 4 * (16 + 1)
    assert count(border="truncate") == count()
    for option, near in (("norm", "layer"), ("mlp", "gelu"), ("border", "zeros")):
        with pytest.raises(InputError, match=f"did you mean '{near}'"):
            create_model("flowdcn", **TINY | {option: near[:-1]})


@pytest.mark.parametrize(
    "bad", [{"width": 0}, {"depth": 0}, {"num_groups": 0}, {"patch_size": 0}, {"num_classes": -1}]
)
def test_impossible_sizes_are_refused(bad):
    with pytest.raises(InputError, match=f"{next(iter(bad))}: expected a whole number of at "):
        create_model("flowdcn", **TINY | bad)


def test_it_trains_under_autocast():
    model = build("flowdcn")
    with torch.autocast("cpu", torch.bfloat16):
        out = model(*inputs(model))
    assert_close_rms(out.float(), model(*inputs(model)), torch.bfloat16)


@pytest.mark.slow
def test_it_compiles_whole_and_once_for_any_reach(unchecked):
    model = build("flowdcn")
    x, t, y = inputs(model)
    compiled = torch.compile(model, fullgraph=True)
    assert_close_rms(compiled(x, t, y, reach=torch.tensor([6.0, 6.0])), model(x, t, y))
    with torch.compiler.set_stance("fail_on_recompile"):
        wide = torch.tensor([9.0, 7.0])
        assert_close_rms(compiled(x, t, y, reach=wide), model(x, t, y, reach=wide))
