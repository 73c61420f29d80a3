"""DiT and SiT: the released modules' outputs, positions on any rectangle, what is refused."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch

from convflow.models.convert import load_official
from convflow.models.dit import DiT, SiT
from convflow.models.zoo import create_model
from convflow.nn.positions import SCALINGS, PositionScaling
from convflow.types import InputError
from tests.cases import TINY_DIT, build, inputs, perturb, read_golden
from tests.tolerance import GOLDEN, GOLDEN_WORST, assert_close_rms


def load(family, **options):
    weights, _, (x, t, y), expected = read_golden(f"{family}_tiny")
    return load_official(weights, family, num_heads=4, **options), (x, t, y), expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("family", "options"), [("dit", {}), ("sit", {}), ("sit", {"keep_half": True})]
)
def test_the_released_module_is_reproduced(family, options, dtype):
    model, (x, t, y), expected = load(family, **options)
    out = model.to(dtype)(x.to(dtype), t.to(dtype), y).double()
    assert_close_rms(out, expected, limit=GOLDEN)
    assert (out - expected).abs().max() < GOLDEN_WORST


@pytest.mark.parametrize("family", ["dit", "sit"])
def test_the_golden_feels_every_weight(family):
    """The comparison above cannot pass with a part of the network switched off."""
    model, (x, t, y), expected = load(family)
    width = model.settings["width"]
    for name, parameter in model.named_parameters():
        before = parameter.detach().clone()
        parameter.data *= 1.01
        if name.endswith("qkv.bias"):  # a bias shared by all keys changes no weight
            assert model(x, t, y).sub(expected).norm() > GOLDEN * expected.norm()
            parameter.data = before.clone()
            parameter.data[2 * width :] *= 1.01
        error = (model(x, t, y) - expected).norm() / expected.norm()
        parameter.data = before
        assert error > GOLDEN, name


@pytest.mark.parametrize("positions", ["sincos", "rotary"])
def test_rows_and_columns_are_told_apart_and_treated_alike(positions):
    """Exchange them in the image and in the weights, and they are so in the prediction."""
    model = build("sit-rotary" if positions == "rotary" else "sit").double()
    x, t, y = inputs(model, size=(2, 5))
    x, t = x.double(), t.double()
    out = model(x, t, y)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        _turn(twin, positions)
    assert_close_rms(twin(x.mT, t, y).mT, out)
    # The same numbers under another shape are another image.
    assert not torch.allclose(model(x.mT, t, y).mT, out)


def _turn(model, positions):
    """Exchange rows and columns in the weights."""
    width = model.settings["width"]
    model.embed_patches.weight.copy_(model.embed_patches.weight.mT.contiguous())
    for part in (model.project.out.weight, model.project.out.bias):
        patches = part.unflatten(0, (2, 2, 3))
        part.copy_(patches.transpose(0, 1).flatten(0, 2).clone())
    if positions == "sincos":  # channels that hear of the column change places with the row's
        swap = torch.arange(width).roll(width // 2)
        _permute_width(model, swap)
        return
    for block in model.blocks:  # angles: columns, then rows, in both halves of a head
        heads, quarter = block.mix.num_heads, width // block.mix.num_heads // 4
        swap = torch.arange(width).view(heads, 2, 2, quarter).flip(2).flatten()
        for part in (block.mix.qkv.weight, block.mix.qkv.bias):
            part[:width], part[width : 2 * width] = part[:width][swap], part[width:-width][swap]


def _permute_width(model, swap):
    """Name the channels of the features in another order; the function stays as it was."""
    for layer in (model.embed_patches, model.embed_time.out):
        layer.weight.copy_(layer.weight[swap].clone())
        layer.bias.copy_(layer.bias[swap].clone())
    model.embed_label.weight.copy_(model.embed_label.weight[:, swap].clone())
    for modulation in (model.project.modulation, *(b.modulation for b in model.blocks)):
        linear, many = modulation[1], torch.arange(modulation.count)[:, None] * len(swap) + swap
        linear.weight.copy_(linear.weight[many.flatten()][:, swap].clone())
        linear.bias.copy_(linear.bias[many.flatten()].clone())
    model.project.out.weight.copy_(model.project.out.weight[:, swap].clone())
    for block in model.blocks:
        for layer in (block.mix.qkv, block.mlp[0]):
            layer.weight.copy_(layer.weight[:, swap].clone())
        for layer in (block.mix.out, block.mlp[2]):
            layer.weight.copy_(layer.weight[swap].clone())
            layer.bias.copy_(layer.bias[swap].clone())


def test_positions_matter_and_rotary_ones_only_as_offsets():
    for case in ("sit", "sit-rotary"):
        model = build(case).double()
        x, t, y = inputs(model, size=(4, 4))
        x, t = x.double(), t.double()
        shifted = model(x.roll((2, 4), (2, 3)), t, y).roll((-2, -4), (2, 3))
        assert not torch.allclose(shifted, model(x, t, y))
    # An image alone on its map, here one cell: its place is no offset.
    trunk = build("sit-rotary").double().trunk
    cell, c = torch.randn(1, 1, 1, 16).double(), torch.randn(1, 16).double()
    row = torch.cat([cell, cell, cell], dim=2)
    assert_close_rms(trunk(row, c), trunk(cell, c).expand(1, 1, 3, 16))
    fixed = build("sit").double().trunk
    assert not torch.allclose(fixed(row, c), fixed(cell, c).expand(1, 1, 3, 16))


def test_its_four_parts_make_the_whole():
    for case in ("dit", "dit-learned-variance", "sit-rotary", "sit-discard-half"):
        model = build(case)
        x, t, y = inputs(model)
        c = model.condition(t, y)
        assert model.head(model.trunk(model.stem(x), c), c).equal(model(x, t, y))


def test_dit_and_sit_are_one_network():
    dit, sit = DiT(**TINY_DIT), SiT(**TINY_DIT)
    assert (dit.settings["family"], sit.settings["family"]) == ("dit", "sit")
    sit.load_state_dict(perturb(dit).state_dict())
    assert sit(*inputs(sit)).equal(dit(*inputs(dit)))


def test_the_first_half_of_the_channels_is_the_prediction():
    whole = build("dit-learned-variance")
    half = SiT(**TINY_DIT, discard_half=True)
    half.load_state_dict(whole.state_dict())
    x, t, y = inputs(whole)
    assert whole(x, t, y).shape[1] == 6
    assert half(x, t, y).equal(whole(x, t, y)[:, :3])
    assert (whole.learned_variance, half.learned_variance) == (True, False)


def test_options_change_the_network(unchecked):
    def count(**options):
        return sum(p.numel() for p in create_model("dit", **TINY_DIT | options).parameters())

    assert count(qk_norm=True) - count() == 2 * 2 * 8
    assert count(learned_variance=True) - count() == 3 * 4 * (16 + 1)
    assert count(mlp_ratio=2.5) - count() == -2 * (2 * 16 * 24 + 24)
    assert count(positions="rotary") == count()
    with pytest.raises(InputError, match="did you mean 'rotary'"):
        create_model("dit", **TINY_DIT | {"positions": "rotar"})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"width": 0}, r"dit\.width: expected a whole number of at least 1, got '0'"),
        ({"depth": 0}, "depth: expected a whole number of at least 1, got '0'"),
        ({"num_heads": 0}, "num_heads: expected a whole number of at least 1"),
        ({"patch_size": 0}, "patch_size: expected a whole number of at least 1"),
        ({"num_classes": -1}, "num_classes: expected a whole number of at least 0, got '-1'"),
        ({"mlp_ratio": 0.0}, r"mlp_ratio: expected a number above 0, got '0\.0'"),
        ({"mlp_ratio": 0.01}, r"expected an mlp_ratio above 0, got 0.01"),
        ({"num_heads": 3}, "got width 16 and num_heads 3"),
        ({"width": 18}, "expected a width that 4 divides, .* got 18"),
        ({"num_heads": 8, "positions": "rotary"}, "width / num_heads that 4 divides, .* got 2"),
        ({"learned_variance": True, "discard_half": True}, "got both; leave out discard_half"),
    ],
)
def test_impossible_sizes_are_refused(bad, message):
    with pytest.raises(InputError, match=message):
        create_model("dit", **TINY_DIT | bad)


@pytest.mark.parametrize("case", ["dit", "sit-rotary", "sit-qk-norm"])
def test_it_trains_under_autocast(case):
    model = build(case)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(*inputs(model))
    assert_close_rms(out.float(), model(*inputs(model)), torch.bfloat16)
    out.square().sum().backward()


@pytest.mark.slow
@pytest.mark.parametrize("case", ["dit", "sit-rotary"])
def test_it_compiles_whole(case, unchecked):
    model = build(case)
    compiled = torch.compile(model, fullgraph=True)
    assert_close_rms(compiled(*inputs(model)), model(*inputs(model)))


SCALED = [
    (case, kind)
    for case, positions in (("sit", "sincos"), ("sit-rotary", "rotary"))
    for kind in SCALINGS[positions]
]


@pytest.mark.parametrize(("case", "kind"), SCALED)
def test_scaled_positions_change_larger_sizes_alone(case, kind):
    model = build(case)
    scaling = PositionScaling(kind, 4, 6)
    for size in ((4, 6), (2, 6), (4, 1), (3, 5)):
        x, t, y = inputs(model, size=size)
        assert model(x, t, y, position_scaling=scaling).equal(model(x, t, y)), size
    for size in ((5, 6), (4, 7), (2, 9), (8, 8)):
        x, t, y = inputs(model, size=size)
        assert not model(x, t, y, position_scaling=scaling).equal(model(x, t, y)), size


QUICK = [("sit", "ei"), ("sit-rotary", "yarn")]
SLOW = [pytest.param(*pair, marks=pytest.mark.slow) for pair in SCALED if pair not in QUICK]


@pytest.mark.parametrize(("case", "kind"), [*QUICK, *SLOW])
def test_one_graph_of_each_kind_of_scaling_serves_all_sizes(case, kind, unchecked):
    settings = TINY_DIT | {"depth": 1, "positions": "rotary" if "rotary" in case else "sincos"}
    model = perturb(create_model("sit", **settings)).requires_grad_(False)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    scaling = PositionScaling(kind, 4, 5)
    sizes = [(4, 6), (5, 3), (4, 4), (3, 8), (8, 3), (9, 9)]
    x, t, y = inputs(model, 7, sizes[0])
    compiled(x, t, y, position_scaling=scaling)
    with torch.compiler.set_stance("fail_on_recompile"):
        for size in sizes:
            x, t, y = inputs(model, 2, size)
            expected = model(x, t, y, position_scaling=scaling)
            assert_close_rms(compiled(x, t, y, position_scaling=scaling), expected)


def test_a_scaling_of_other_positions_is_refused():
    model = build("sit")
    for refused in (model.check_options, partial(model, *inputs(model))):
        with pytest.raises(InputError, match="pi or ei for sincos positions, got 'yarn'"):
            refused(position_scaling=PositionScaling("yarn", 4, 6))
    model.check_options(position_scaling=PositionScaling("ei", 4, 6))
    build("sit-rotary").check_options(position_scaling=PositionScaling("yarn", 4, 6))
