"""DiCo: the released module's outputs, its block and layouts, padding, published ablations."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from convflow.models.convert import load_official
from convflow.models.dico import DiCoBlock
from convflow.models.zoo import RELEASED_SETTINGS, SIZES, create_model
from convflow.nn.conv import use_depthwise
from convflow.nn.resample import mirror
from convflow.types import InputError
from tests.cases import GOLDENS, TINY_DICO, build, inputs, perturb, read_golden
from tests.tolerance import GOLDEN, GOLDEN_WORST, TOLERANCE, assert_close_rms, distance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_released_module_is_reproduced(dtype):
    weights, config, (x, t, y), expected = read_golden("dico_tiny")
    model = load_official(weights, family="dico").to(dtype)
    assert (model.num_classes, model.in_channels) == (config["num_classes"], config["in_channels"])
    out = model(x.to(dtype), t.to(dtype), y).double()
    assert_close_rms(out, expected, limit=GOLDEN)
    assert (out - expected).abs().max() < GOLDEN_WORST * expected.abs().max()


@pytest.mark.slow
def test_the_golden_feels_every_weight():
    """The comparison above cannot pass with a part of the network switched off."""
    weights, _, (x, t, y), expected = read_golden("dico_tiny")
    model = load_official(weights, family="dico")
    for name, parameter in model.named_parameters():
        before = parameter.detach().clone()
        parameter.data *= 1.01
        error = (model(x, t.float(), y) - expected).norm() / expected.norm()
        parameter.data = before
        assert error > GOLDEN, name


def test_released_guidance_follows_from_two_calls():
    """Scale 1.4 on the first three of four noise channels; the rest stays as each call has it."""
    tensors = load_file(GOLDENS / "dico_tiny.safetensors")
    model = load_official(read_golden("dico_tiny")[0], family="dico")
    x, t, labels = tensors["in.x"], tensors["in.t"].float(), torch.tensor([1, 2])
    given, free = (model(x, t, y) for y in (labels, torch.full_like(labels, 10)))
    guided = free[:, :3] + 1.4 * (given[:, :3] - free[:, :3])
    expected = torch.cat([torch.cat([guided, out[:, 3:]], dim=1) for out in (given, free)])
    assert_close_rms(expected, tensors["out.cfg_eps_sigma"], limit=GOLDEN)


def test_the_block_is_two_gated_residuals():
    block = perturb(DiCoBlock(6, 2.5, 3, "cca", "gelu"), 0.3).double()
    x, c = torch.randn(2, 3, 5, 6, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    linear, (into, _, out) = block.modulation[1], block.mlp
    parts = (F.silu(c) @ linear.weight.T + linear.bias)[:, None, None].split(6, -1)
    shift1, scale1, gate1, shift2, scale2, gate2 = parts

    def norm(x):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    middle = x + gate1 * block.mix(norm(x) * (1 + scale1) + shift1)
    hidden = (norm(middle) * (1 + scale2) + shift2) @ into.weight.T + into.bias
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    assert hidden.shape[-1] == 15
    assert_close_rms(block(x, c), middle + gate2 * (hidden @ out.weight.T + out.bias))


@pytest.mark.parametrize("case", ["dico", "dico-isotropic", "dico-learned-variance"])
def test_its_four_parts_make_the_whole(case):
    model = build(case)
    x, t, y = inputs(model)
    c = model.condition(t, y)
    assert [len(level[0]) for level in c] == ([8] if case == "dico-isotropic" else [8, 16, 32])
    assert model.head(model.trunk(model.stem(x), c), c).equal(model(x, t, y))


def test_every_level_feels_time_and_label():
    model = build("dico")
    x, t, y = inputs(model)
    c, features = model.condition(t, y), model.stem(x)
    base = model.trunk(features, c)
    for level in range(3):
        other = tuple(v * (1.1 if k == level else 1.0) for k, v in enumerate(c))
        assert not model.trunk(features, other).equal(base), level


def test_the_isotropic_layout_joins_what_lies_opposite():
    model = build("dico-isotropic-skip")  # five blocks: two skips around the middle one
    x, t, y = inputs(model)
    (b0, b1, b2, b3, b4), (outer, inner) = model.body.blocks, model.body.join
    (c,) = model.condition(t, y)
    a = b0(model.stem(x), c)
    b = b1(a, c)
    out = b4(outer(b3(inner(b2(b, c), b), c), a), c)
    assert_close_rms(model.trunk(model.stem(x), (c,)), out)
    plain = build("dico-isotropic")
    c = plain.condition(t, y)
    first, second = plain.body.blocks
    assert_close_rms(plain.trunk(plain.stem(x), c), second(first(plain.stem(x), c[0]), c[0]))


@pytest.mark.parametrize(
    ("family", "size"), [("dico", (1, 1)), ("dico", (8, 12)), ("fcdm", (5, 7)), ("fcdm", (4, 6))]
)
def test_padding_mirrors_and_cuts_off(family, size):
    model = perturb(create_model(family, **TINY_DICO))
    padded = create_model(family, **TINY_DICO, pad=True)
    padded.load_state_dict(model.state_dict())
    _, t, y = inputs(model)
    x = torch.randn(3, 3, *size)
    whole = model(mirror(x, 4), t, y)
    assert padded(x, t, y).equal(whole[:, :, : size[0], : size[1]])
    if size != (8, 12):
        with pytest.raises(InputError, match="multiples of 4, got"):
            model(x, t, y)


def test_settings_come_back_as_json_has_them():
    settings = create_model("dico").settings
    assert settings["depths"] == [5, 4, 4, 4, 4]
    settings["depths"].append(1)
    assert create_model("dico-s").settings["depths"] == [5, 4, 4, 4, 4]


def counts(name: str, **settings) -> tuple[float, float]:
    """Millions of parameters, and GMACs at 256 pixels, as released but for `settings`."""
    with torch.device("meta"):
        model = create_model(name, **RELEASED_SETTINGS[name.split("-")[0]] | settings)
        x, t, y = torch.empty(1, 4, 32, 32), torch.empty(1), torch.empty(1, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(x, t, y)
    return sum(p.numel() for p in model.parameters()) / 1e6, counter.get_total_flops() / 2e9


ISOTROPIC = {"width": 256, "depths": [24], "mlp_ratio": 6.0}


@pytest.mark.parametrize(
    ("settings", "params", "gmacs"),
    [
        ({"kernel_size": 7}, 33.4, 4.34),
        ({"layout": "isotropic"} | ISOTROPIC, 33.7, 5.67),
        ({"layout": "isotropic-skip"} | ISOTROPIC, 35.1, 6.04),
    ],
)
def test_published_ablations_have_their_counts(settings, params, gmacs):
    """Tables 4 and 5 of the paper, whose counts are rounded and 0.3 % above those of its code."""
    assert counts("dico-s", **settings) == pytest.approx((params, gmacs), rel=0.005)


def test_its_module_in_the_frame_of_flowdcn_has_the_published_counts():
    """Table 12: 31.3 M parameters and 4.6 GMACs, with a 7x7 kernel to the last digit."""
    params, gmacs = counts("flowdcn-s/2", mix="dico", kernel_size=7)
    assert (round(params, 1), round(gmacs, 1)) == (31.3, 4.6)
    assert counts("flowdcn-s/2", mix="dico") == pytest.approx((31.3, 4.6), rel=0.01)


def test_the_module_in_the_frame_of_flowdcn_has_no_reach():
    model = build("flowdcn-dico")
    with pytest.raises(InputError, match='expected no reach, for mix="dico" has none'):
        model(*inputs(model), reach=3.0)


def test_options_change_the_count_by_what_they_are():
    def count(**options):
        return sum(p.numel() for p in create_model("dico", **TINY_DICO | options).parameters())

    widths = [8, 16, 16, 32, 16, 16]  # of the six blocks
    cca = sum(w * w + w for w in widths)
    assert count(attention="none") - count() == -cca
    assert count(attention="se") - count() == sum(17 * w + 8 for w in widths) - cca
    assert count(kernel_size=7) - count() == 40 * sum(widths)
    assert count(mlp_ratio=4) - count() == sum(4 * w * w + 2 * w for w in widths)
    assert count(learned_variance=True) - count() == 3 * (9 * 16 + 1)
    assert count(activation="relu", pad=True) == count()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"width": 0}, "width: expected a whole number of at least 1, got '0'"),
        ({"width": 7}, "expected an even width and 5 depths .* got width 7"),
        ({"num_classes": -1}, "num_classes: expected a whole number of at least 0, got '-1'"),
        ({"mlp_ratio": 0.0}, r"mlp_ratio: expected a number above 0, got '0\.0'"),
        ({"depths": [1, 1, 1]}, r"5 depths of at least 1, .* depths \[1, 1, 1\]"),
        ({"layout": "isotropic"}, r"depths of one number .* got \[1, 2, 1, 1, 1\]; try \[24\]"),
        (
            {"layout": "isotropic", "depths": [0]},
            "depths: expected a whole number of at least 1",
        ),
        (
            {"layout": "isotropc"},
            "layout: expected u or isotropic or isotropic-skip, got",
        ),
        ({"kernel_size": 4}, "kernel_size of 3, 5 or 7, got 4"),
    ],
)
def test_impossible_settings_are_refused(bad, message, unchecked):
    with pytest.raises(InputError, match=message):
        create_model("dico", **TINY_DICO | bad)


@pytest.mark.parametrize("case", ["dico", "fcdm", "dico-isotropic-skip", "flowdcn-dico"])
def test_it_trains_under_autocast(case):
    model = build(case)
    x, t, y = inputs(model)
    with torch.autocast("cpu", torch.bfloat16):
        features = model.stem(x)
        out = model(x, t, y)
    assert features.dtype == torch.float32
    assert_close_rms(out.float(), model(x, t, y), torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["dico-pad", "fcdm"])
def test_it_is_one_graph_to_the_compiler(case, unchecked):
    model = build(case)
    x, t, y = inputs(model)
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="aot_eager")
    assert_close_rms(compiled(x, t, y), model(x, t, y))


@pytest.mark.slow
def test_with_the_depthwise_operator_it_is_the_same_network_in_one_graph(unchecked):
    model = perturb(create_model("dico", **TINY_DICO | {"layout": "isotropic", "depths": [1]}))
    x, t, y = inputs(model)
    expected, leaves = model(x, t, y), list(model.parameters())
    truths = torch.autograd.grad(expected.sum(), leaves)
    use_depthwise(model, "triton")
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="aot_eager")
    actual = compiled(x, t, y)
    assert_close_rms(actual, expected)
    found = torch.autograd.grad(actual.sum(), leaves)
    assert distance(found, truths) <= TOLERANCE[torch.float32]


@pytest.mark.slow
@torch.no_grad()
def test_it_compiles(unchecked):
    model = perturb(create_model("dico", **TINY_DICO | {"layout": "isotropic", "depths": [1]}))
    x, t, y = inputs(model)
    compiled = torch.compile(model, fullgraph=True, dynamic=False)
    assert_close_rms(compiled(x, t, y), model(x, t, y))


def test_every_size_is_listed():
    assert {name for name in SIZES if name.startswith("dico")} == {
        f"dico-{size}" for size in ("s", "b", "l", "xl", "h")
    }
