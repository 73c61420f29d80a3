"""A pyramid around every family: what enters, what does not, its cost, and a trained start."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import convflow
from convflow.models.cost import measure_cost
from convflow.models.families import BACKBONES
from convflow.models.pyramid import Pyramid
from convflow.models.zoo import SIZES, create_model, load_model
from convflow.nn.positions import PositionScaling
from convflow.processes.decomposition import Decomposition
from convflow.types import InputError
from tests.cases import MODELS, NUM_CLASSES, perturb
from tests.tolerance import assert_close_rms


def settings_of(case: str, **changes) -> dict:
    family, settings = MODELS[case]
    return {"family": family, **settings, **changes}


PYRAMIDS = {
    "flowdcn": {"backbone": settings_of("flowdcn")},
    "flowdcn-4-2": {"backbone": settings_of("flowdcn", patch_size=4), "factors": [4, 2]},
    "flowdcn-no-classes-3": {"backbone": settings_of("flowdcn-no-classes"), "factors": [3]},
    "flowdcn-dico-upsample": {"backbone": settings_of("flowdcn-dico"), "coarse": "upsample"},
    "dico": {"backbone": settings_of("dico"), "stage_embedding": True},
    "dico-3": {"backbone": settings_of("dico"), "factors": [3]},
    "dico-2-2-upsample": {
        "backbone": settings_of("dico"),
        "factors": [2, 2],
        "coarse": "upsample",
        "stage_embedding": True,
    },
    "dico-isotropic-2-2": {"backbone": settings_of("dico-isotropic"), "factors": [2, 2]},
    "dico-isotropic-skip": {"backbone": settings_of("dico-isotropic-skip")},
    "fcdm-4": {"backbone": settings_of("fcdm"), "factors": [4]},
    "fcdm-2-2": {"backbone": settings_of("fcdm"), "factors": [2, 2]},
    "dit-patch-4-2-2": {
        "backbone": settings_of("dit-patch-4"),
        "factors": [2, 2],
        "stage_embedding": True,
    },
    "dit-patch-4-6": {"backbone": settings_of("dit-patch-4"), "factors": [6]},
    "sit-rotary-4": {"backbone": settings_of("sit-rotary"), "factors": [4]},
    "sit-discard-half": {"backbone": settings_of("sit-discard-half"), "coarse": "upsample"},
}
FEW = ["flowdcn", "dico-2-2-upsample", "fcdm-4", "dit-patch-4-2-2"]
"""One of each kind of stem, with and without levels, two and three scales."""

assert {case["backbone"]["family"] for case in PYRAMIDS.values()} == set(BACKBONES)


def build(case: str, *, perturbed: bool = True) -> Pyramid:
    model = create_model("pyramid", **PYRAMIDS[case]).eval()
    assert isinstance(model, Pyramid)
    return perturb(model) if perturbed else model


def inputs(model: Pyramid, batch: int = 3, size: tuple[int, int] = (1, 2)):
    """Scales of noise, a time for each, labels; `size` in multiples of the model."""
    generator = torch.Generator().manual_seed(batch)
    height, width = (side * model.multiple for side in size)
    scales = [
        torch.randn(batch, model.in_channels, height // by, width // by, generator=generator)
        for by in model.downsampling
    ]
    y = (torch.arange(batch) + model.num_classes) % (model.num_classes + 1)
    return scales, torch.rand(batch, len(scales), generator=generator), y


def assert_equal(found, expected):
    assert len(found) == len(expected)
    assert all(a.equal(b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("case", PYRAMIDS)
def test_it_answers_for_every_scale_and_with_gradients_for_every_parameter(case):
    model = build(case)
    scales, t, y = inputs(model)
    for x in scales:
        x.requires_grad_()
    out = model(scales, t, y)
    assert [o.shape for o in out] == [x.shape for x in scales]
    assert all(o.isfinite().all() and o.any() for o in out)
    sum(o.square().sum() for o in out).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent
    assert all(x.grad.any() for x in scales)


@pytest.mark.parametrize("case", PYRAMIDS)
def test_a_new_one_predicts_zero_on_every_scale(case):
    model = build(case, perturbed=False)
    assert not any(out.any() for out in model(*inputs(model)))


@pytest.mark.parametrize("case", PYRAMIDS)
@pytest.mark.parametrize(("batch", "size"), [(1, (1, 1)), (2, (3, 1))])
def test_it_takes_rectangles_and_batches_and_no_sample_sees_another(case, batch, size):
    model = build(case)
    scales, t, y = inputs(model, batch, size)
    together = model(scales, t, y)
    alone = [
        model([x[i : i + 1] for x in scales], t[i : i + 1], y[i : i + 1]) for i in range(batch)
    ]
    for scale, out in enumerate(together):
        assert out.shape == scales[scale].shape
        assert_close_rms(out, torch.cat([answer[scale] for answer in alone]))


@pytest.mark.parametrize("case", PYRAMIDS)
def test_every_scale_and_time_and_the_label_matter_to_every_prediction(case):
    model = build(case)
    scales, t, y = inputs(model)
    out = model(scales, t, y)
    changed = []
    for scale in range(len(scales)):
        other, later = [x.clone() for x in scales], t.clone()
        other[scale] += 0.1
        later[:, scale] *= 0.5
        changed += [(other, t, y), (scales, later, y)]
    if model.num_classes:
        changed.append((scales, t, (y + 1) % model.num_classes))
    for arguments in changed:
        assert not any(a.equal(b) for a, b in zip(out, model(*arguments), strict=True))


@pytest.mark.parametrize("case", PYRAMIDS)
def test_the_first_scales_alone_are_all_scales_with_the_rest_inactive(case):
    model = build(case)
    scales, t, y = inputs(model)
    for k in range(1, len(scales) + 1):
        first = model(scales[:k], t[:, :k], y)
        masked = model(scales, t, y, torch.full((3,), k))
        assert_equal(masked[:k], first)
        assert not any(out.any() for out in masked[k:])


@pytest.mark.parametrize("case", PYRAMIDS)
def test_nothing_of_an_inactive_scale_enters(case):
    """Neither its numbers, though they be no numbers, nor its time, nor any weight of its own."""
    model = build(case)
    scales, t, y = inputs(model)
    last = len(scales)
    active = torch.tensor([1, last, last - 1])
    before = model(scales, t, y, active)
    own = model.backbone.parts
    stems, times, heads = (
        (*model.stems, own.stem),
        (*model.times, own.time),
        (*model.heads, own.head),
    )
    loud = copy.deepcopy(model)
    for scale in range(last):
        scales[scale][active <= scale] = torch.nan
        t[active <= scale, scale] = torch.nan
    after = model(scales, t, y, active)
    assert_equal(after, before)
    for scale, out in enumerate(after):
        assert not out[active <= scale].any()
        assert all(out[active > scale].flatten(1).any(1))
    # Sample 0 has its first scale alone: other weights in all other scales leave it as it is ...
    with torch.no_grad():
        for part in (*stems[1:], *times[1:], *heads[1:]):
            for parameter in part.parameters():
                parameter += 1.0
    assert model(scales, t, y, active)[0][0].equal(before[0][0])
    # ... and they matter where the scales are active.
    assert not model(scales, t, y, active)[0][1].equal(before[0][1])
    # What is no number poisons no gradient either.
    loud.zero_grad()
    sum(out.square().sum() for out in loud(scales, t, y, active)).backward()
    assert all(p.grad.isfinite().all() for p in loud.parameters())


def test_a_sample_with_fewer_scales_gives_no_gradient_to_the_rest():
    model = build("fcdm-2-2")
    scales, t, y = inputs(model)
    out = model(scales, t, y, torch.tensor([1, 2, 1]))
    sum(o.square().sum() for o in out).backward()
    own = model.backbone.parts
    for part in (own.stem, own.time, own.head):
        assert not any(p.grad is not None and p.grad.any() for p in part.parameters())
    for part in (model.stems[1], model.times[1], model.heads[1]):
        assert all(p.grad.any() for p in part.parameters())


@pytest.mark.parametrize("case", ["dico", "dit-patch-4-2-2"])
def test_the_stage_is_the_last_active_scale_and_zero_at_first(case):
    model = build(case, perturbed=False)
    scales, t, y = inputs(model)
    tables = [table for table in model.stage.modules() if not list(table.children())]
    assert not any(table.weight.any() for table in tables)
    perturb(model)
    active = torch.tensor([1, 2, 2])
    out = model(scales, t, y, active)
    with torch.no_grad():
        for table in tables:
            table.weight[0] += 1.0
    changed = model(scales, t, y, active)
    assert not changed[0][0].equal(out[0][0])
    assert changed[0][1:].equal(out[0][1:])
    # Without counts the stage is the number of the last scale there is.
    assert not model(scales[:1], t[:, :1], y)[0].equal(model(scales[:2], t[:, :2], y)[0])
    assert_equal(model(scales[:1], t[:, :1], y), model(scales, t, y, torch.ones(3).long())[:1])


@pytest.mark.parametrize("case", ["flowdcn", "sit-rotary-4"])
def test_the_scales_are_summed_before_the_trunk_and_the_times_with_the_label(case):
    """The walk through the network, step by step."""
    model = build(case)
    inner = model.backbone
    scales, t, y = inputs(model)
    features = model.stems[0](scales[0]) + inner.embed_patches(scales[1])
    c = inner.embed_label(y) + model.times[0](t[:, 0]) + inner.embed_time(t[:, 1])
    features = inner.trunk(features, c)
    coarse, fine = model(scales, t, y)
    assert_close_rms(coarse, model.heads[0](features, c))
    assert_close_rms(fine, inner.project(features, c))


def test_with_levels_each_has_a_time_of_every_scale_and_heads_see_the_level_of_the_backbone():
    model = build("dico-3")
    inner, (scales, t, y) = model.backbone, inputs(model)
    own = inner.embed_condition
    c = tuple(
        own.label[level](y) + model.times[0][level](t[:, 0]) + own.time[level](t[:, 1])
        for level in range(3)
    )
    features = inner.trunk(model.stems[0](scales[0]) + inner.embed(scales[1]), c)
    coarse, fine = model(scales, t, y)
    assert_close_rms(coarse, model.heads[0](features, c[1]))
    assert_close_rms(fine, inner.project(features, c[1]))


def test_the_reach_passes_through():
    model = build("flowdcn")
    scales, t, y = inputs(model, size=(3, 4))
    assert_equal(model(scales, t, y, reach=6.0), model(scales, t, y))
    assert not model(scales, t, y, reach=2.0)[0].equal(model(scales, t, y)[0])
    with pytest.raises(InputError, match="reach above 0"):
        model(scales, t, y, reach=-1.0)


@pytest.mark.parametrize("case", FEW)
def test_it_is_deterministic_and_the_same_in_float64(case):
    model = build(case)
    scales, t, y = inputs(model)
    before = torch.get_rng_state()
    single = model(scales, t, y)
    assert_equal(model(scales, t, y), single)
    assert_equal(copy.deepcopy(model).train()(scales, t, y), single)
    assert before.equal(torch.get_rng_state())
    double = model.double()([x.double() for x in scales], t.double(), y)
    for a, b in zip(single, double, strict=True):
        assert b.dtype == torch.float64
        assert_close_rms(a, b)


@pytest.mark.parametrize("case", FEW)
def test_under_autocast_the_features_stay_wide(case):
    model = build(case)
    scales, t, y = inputs(model)
    active = torch.tensor([1, 2, 2])
    with torch.autocast("cpu", torch.bfloat16):
        features = model.stem(scales, [None] * len(scales))
        out = model(scales, t, y, active)
    assert features.dtype == torch.float32
    for a, b in zip(out, model(scales, t, y, active), strict=True):
        assert_close_rms(a.float(), b, torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone",
    [
        settings_of("dico-isotropic", depths=[1]),
        settings_of("dit", depth=1),
    ],
    ids=["levels", "one vector"],
)
def test_it_is_one_graph_to_the_compiler(backbone, unchecked):
    model = perturb(create_model("pyramid", backbone=backbone, stage_embedding=True))
    scales, t, y = inputs(model)
    active = torch.tensor([2, 1, 2])
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="aot_eager")
    for a, b in zip(compiled(scales, t, y, active), model(scales, t, y, active), strict=True):
        assert_close_rms(a, b)


@pytest.mark.parametrize("case", FEW)
def test_saving_and_loading_is_exact(case, tmp_path):
    model = build(case)
    model.save_pretrained(tmp_path)
    expected = model(*inputs(model))
    for again in (load_model(tmp_path), Pyramid.from_pretrained(tmp_path)):
        assert type(again) is Pyramid
        assert not again.training
        assert again.settings == model.settings
        assert_equal(again(*inputs(model)), expected)


def test_settings_hold_all_of_the_backbone_too():
    model = convflow.create_model("pyramid", backbone={"family": "dico", "width": 8}, factors=(2,))
    assert model.settings == {
        "family": "pyramid",
        "backbone": create_model("dico", width=8).settings,
        "factors": [2],
        "stage_embedding": False,
        "coarse": "patch",
        "axes": [],
    }
    assert (model.in_channels, model.num_classes) == (4, 1000)


@pytest.mark.parametrize(
    ("case", "multiple"),
    [
        ("flowdcn", 2),
        ("flowdcn-4-2", 8),
        ("flowdcn-no-classes-3", 6),
        ("dico-3", 12),
        ("fcdm-4", 4),
        ("dit-patch-4-6", 12),
        ("sit-rotary-4", 4),
    ],
)
def test_sides_are_multiples_of_the_backbones_and_of_all_factors(case, multiple):
    model = build(case)
    assert model.multiple == multiple
    model.inner.check_input(torch.zeros(1, model.in_channels, multiple, 3 * multiple))
    x = torch.zeros(1, model.in_channels, multiple + model.downsampling[0], multiple)
    if x.shape[2] % multiple:
        with pytest.raises(InputError, match=f"multiples of {multiple}, got"):
            model(
                [x[:, :, :: model.downsampling[0], :: model.downsampling[0]]],
                torch.zeros(1, 1),
                torch.zeros(1).long(),
            )


def test_it_takes_what_a_decomposition_gives():
    model = build("fcdm-2-2")
    scales = Decomposition("laplacian", (2, 2)).split(torch.randn(2, 3, 8, 16))
    out = model(scales, torch.rand(2, 3), torch.zeros(2).long())
    assert [o.shape for o in out] == [x.shape for x in scales]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, t, a: ([], t, a), "expected 1 to 2 scales, coarse to fine, got 0"),
        (lambda x, t, a: ([*x, x[1]], t, a), "expected 1 to 2 scales, .* got 3"),
        (lambda x, t, a: (x[::-1], t, a), r"expected scales of shapes .* got .*same factors"),
        (lambda x, t, a: ([p[:, :2] for p in x], t, a), r"expected scales of shapes \[\(3, 3, "),
        (lambda x, t, a: ([p[0] for p in x], t, a), "expected scales of shapes"),
        (lambda x, t, a: (x, t[:, :1], a), r"expected times of shape \(3, 2\), .* got \(3, 1\)"),
        (lambda x, t, a: (x, t[:, 0], a), r"expected times of shape \(3, 2\), .* got \(3,\)"),
        (lambda x, t, a: (x[:1], t, a), r"expected times of shape \(3, 1\), .* got \(3, 2\)"),
        (lambda x, t, a: (x, t, a[:2]), r"expected active as 3 whole numbers, .* shape \(2,\)"),
        (lambda x, t, a: (x, t, a.float()), "whole numbers, .* got torch.float32"),
    ],
)
def test_scales_that_do_not_fit_are_refused(change, message, unchecked):
    model = build("flowdcn")
    scales, t, y = inputs(model)
    scales, t, active = change(scales, t, torch.ones(3).long())
    with pytest.raises(InputError, match=message) as caught:
        model(scales, t, y, active)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "pyramid: expected a value for backbone, got none"),
        ({"backbone": {"width": 8}}, "expected a backbone as settings with a family"),
        ({"backbone": {"family": "dicoo"}}, "unknown model family 'dicoo'; did you mean 'dico'"),
        ({"backbone": {"family": "pyramid"}}, "unknown model family 'pyramid'"),
        ({"backbone": {"family": "fcdm", "witdh": 8}}, "fcdm: unknown setting 'witdh'; did you"),
        ({"backbone": settings_of("dico-pad")}, "expected a backbone without pad, .* pad=True"),
        (
            {"backbone": settings_of("flowdcn-learned-variance")},
            "a backbone without learned_variance, .* learned_variance=True; leave it out",
        ),
        ({"factors": []}, "one or more factors of at least 2 .* got none"),
        ({"factors": [2, 1]}, "factors: expected a whole number of at least 2, got '2,1'"),
        ({"factors": 2}, "factors: expected several numbers such as 2,2, got '2'"),
        ({"factors": [2.5]}, r"factors: expected a whole number, got '2\.5'"),
        ({"coarse": "ptach"}, "coarse: expected patch or upsample, got 'ptach'"),
        ({"factor": [2]}, "pyramid: unknown setting 'factor'; did you mean 'factors'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message, unchecked):
    if settings and "backbone" not in settings:
        settings = {"backbone": settings_of("dit")} | settings
    with pytest.raises(InputError, match=message):
        create_model("pyramid", **settings)


def counts(name: str, size: tuple[int, int] = (64, 64), **settings) -> tuple[int, int]:
    """Parameters, and twice the multiply-accumulates for one image."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = create_model(name, **settings)
        model(*model.blank_inputs(1, size))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dit-xl/2", "flowdcn-xl/2", "dico-xl", "fcdm-xl"])
def test_at_size_xl_parameters_and_operations_grow_by_less_than_a_hundredth(name):
    """Published of a DiT-XL with other details: 0.61 % and, at 512 pixels, 0.005 %."""
    backbone = {"family": SIZES[name].family, **SIZES[name].settings}
    parameters, operations = counts(name)
    more_parameters, more_operations = counts("pyramid", backbone=backbone)
    assert 1.004 < more_parameters / parameters < 1.01
    assert 1 < more_operations / operations < 1.001


@pytest.mark.slow
def test_its_cost_is_counted_as_that_of_any_network():
    cost = measure_cost(
        partial(create_model, "pyramid", **PYRAMIDS["dico-2-2-upsample"]), (8, 16), 2
    )
    parameters, operations = counts("pyramid", (8, 16), **PYRAMIDS["dico-2-2-upsample"])
    assert cost.parameters == parameters
    assert cost.gmacs == pytest.approx(operations / 2e9)
    with pytest.raises(InputError, match="multiples of 4, got 8x18"):
        measure_cost(partial(create_model, "pyramid", **PYRAMIDS["dico-2-2-upsample"]), (8, 18))


TRAINED = [
    "flowdcn",
    "flowdcn-discard-half",
    "flowdcn-patch-3",
    "dico",
    "dico-isotropic",
    "dico-isotropic-skip",
    "fcdm",
    "dit",
    "dit-patch-4",
    "sit-rotary",
]


@pytest.mark.parametrize("case", TRAINED)
@pytest.mark.parametrize("factors", [(2,), (2, 2), (3,)])
def test_a_trained_network_is_the_first_stage_of_its_pyramid(case, factors):
    family, settings = MODELS[case]
    model = perturb(create_model(family, **settings))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pyramid = Pyramid.from_backbone(model, factors, stage_embedding=case == "dico")
    scales, t, y = inputs(pyramid)
    factor = pyramid.downsampling[0]
    large = F.interpolate(scales[0], scale_factor=factor)
    expected = F.avg_pool2d(model(large, t[:, 0], y), factor)
    assert expected.any()
    first = pyramid(scales[:1], t[:, :1], y)
    assert_close_rms(first[0], expected)
    # The later scales change nothing yet, predict zero, and learn.
    out = pyramid(scales, t, y)
    assert_close_rms(out[0], expected)
    assert not any(o.any() for o in out[1:])
    targets = [torch.ones_like(o) for o in out]
    sum((o - goal).square().mean() for o, goal in zip(out, targets, strict=True)).backward()
    own = pyramid.backbone.parts
    for stem, time, head in (
        *zip(pyramid.stems[1:], pyramid.times[1:], pyramid.heads[1:], strict=True),
        (own.stem, own.time, own.head),
    ):
        assert stem.weight.grad.any()
        assert stem.bias.grad.any()
        assert head.out.weight.grad.any()
        assert any("out" in name and p.grad.any() for name, p in time.named_parameters())
    # The trained network itself stays as it was, and shares no memory.
    assert all(tensor.equal(state[name]) for name, tensor in model.state_dict().items())
    theirs = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert theirs.isdisjoint(tensor.data_ptr() for tensor in pyramid.state_dict().values())


def test_a_pyramid_from_a_trained_network_is_stored_and_keeps_dtype_and_mode(tmp_path):
    model = perturb(create_model(MODELS["fcdm"][0], **MODELS["fcdm"][1])).eval()
    pyramid = Pyramid.from_backbone(model)
    assert not pyramid.training
    assert pyramid.num_classes == NUM_CLASSES
    pyramid.save_weights(tmp_path)
    assert_equal(load_model(tmp_path)(*inputs(pyramid)), pyramid(*inputs(pyramid)))
    double = Pyramid.from_backbone(model.double().train())
    assert double.training
    assert {p.dtype for p in double.parameters()} == {torch.float64}


def test_what_cannot_be_inside_is_refused():
    for case in ("dico-pad", "dit-learned-variance"):
        family, settings = MODELS[case]
        with pytest.raises(InputError, match="expected a backbone without"):
            Pyramid.from_backbone(create_model(family, **settings))
    with pytest.raises(InputError, match="unknown model family 'pyramid'"):
        Pyramid.from_backbone(build("dico"))


def test_scaled_positions_pass_through():
    backbone = settings_of("sit")
    model = perturb(create_model("pyramid", backbone=backbone, factors=[2]).eval())
    assert model.options == ("position_scaling",)
    coarse, fine = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 8, 8)
    given = [coarse, fine], torch.rand(2, 2), torch.tensor([1, 2])
    same, scaled = (
        model(*given, position_scaling=PositionScaling("pi", side, side)) for side in (4, 3)
    )
    assert_equal(same, model(*given))
    assert not scaled[0].equal(same[0])
    with pytest.raises(InputError, match="for sincos positions, got 'ntk'"):
        model.check_options(position_scaling=PositionScaling("ntk", 4, 4))
