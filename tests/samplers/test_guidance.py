"""Guidance of every kind: its formula, its interval, its channels, its cost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from convflow.conditions.labels import Labels
from convflow.models.convert import load_official
from convflow.processes.contract import beside
from convflow.samplers.guidance import GUIDANCE_KINDS, ClassifierFreeGuidance, guide
from convflow.types import InputError
from tests.cases import GOLDENS, build, inputs, read_golden
from tests.tolerance import GOLDEN, assert_close_rms

NULL = 5
NONE = Labels(NULL).null
X, T = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(0)), torch.rand(3)
Y = torch.tensor([0, 3, NULL])


class Linear:
    """Predicts x * (label + 1) and remembers the batches it was asked for."""

    def __init__(self):
        self.batches = []

    def __call__(self, x, t, y):
        self.batches.append(len(x))
        return x * (y + 1).view(-1, 1, 1, 1)


def guided(scale, interval=(0.0, 1.0), t=T):
    model = Linear()
    out = ClassifierFreeGuidance(model, NONE, scale, interval)(X, t, Y)
    return out, model.batches


@given(st.floats(-3, 10))
def test_it_is_its_formula_in_one_batched_call(scale):
    out, batches = guided(scale)
    labelled, unlabelled = X * (Y + 1).view(-1, 1, 1, 1), X * (NULL + 1)
    assert_close_rms(out.double(), unlabelled + scale * (labelled - unlabelled).double(), X.dtype)
    assert batches == ([3] if scale == 1 else [6])


def test_a_scale_of_one_is_the_model_itself():
    model = build("flowdcn")
    x, t, y = inputs(model)
    assert ClassifierFreeGuidance(model, model.conditions.null, 1.0)(x, t, y).equal(model(x, t, y))


def test_no_label_needs_no_guidance():
    out, _ = guided(7.0)
    assert_close_rms(out[2], X[2] * (NULL + 1))


def test_it_guides_a_real_network():
    model = build("flowdcn")
    x, t, _ = inputs(model)
    y, null = torch.tensor([0, 1, 2]), torch.full((3,), model.num_classes)
    out = ClassifierFreeGuidance(model, model.conditions.null, 3.0)(x, t, y)
    assert_close_rms(out, model(x, t, null) + 3 * (model(x, t, y) - model(x, t, null)))


@pytest.mark.parametrize(
    ("times", "acts"),
    [
        ([0.1, 0.1, 0.1], [False, False, False]),
        ([0.2, 0.2, 0.2], [True, True, True]),
        ([0.6, 0.6, 0.6], [True, True, True]),
        ([0.1, 0.4, 0.7], [False, True, False]),
        ([0.7, 0.7, 0.7], [False, False, False]),
    ],
)
def test_it_acts_within_its_interval_alone(times, acts):
    out, batches = guided(3.0, (0.2, 0.6), torch.tensor(times))
    everywhere, _ = guided(3.0)
    plain, _ = guided(1.0)
    for i, active in enumerate(acts):
        assert_close_rms(out[i], (everywhere if active else plain)[i])
    assert batches == ([6] if any(acts) else [3]), "outside the interval one prediction is enough"


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_the_whole_interval_has_its_ends(t):
    out, _ = guided(3.0, (0.0, 1.0), torch.full((3,), t))
    assert_close_rms(out, guided(3.0)[0])


def weaker(x, t, y):
    """A worse model with a prediction of its own, and the channels of a learned variance."""
    return torch.cat([0.5 * x - y.view(-1, 1, 1, 1), -x], 1)


def strong(x, t, y):
    return torch.cat([torch.sin(x) * (y + 1).view(-1, 1, 1, 1), t.view(-1, 1, 1, 1) * x], 1)


def build_kind(kind, scale, **options):
    options |= {"weaker": weaker} if kind == "auto" else {}
    return guide(strong, NONE, scale, kind, **options)


@pytest.mark.parametrize("kind", GUIDANCE_KINDS)
def test_every_kind_is_its_formula_and_the_variance_is_that_of_the_label(kind):
    x, t, y = X.double(), torch.tensor([0.1, 0.5, 0.9]).double(), torch.tensor([0, 3, 1])
    out, label = build_kind(kind, 2.5)(x, t, y), strong(x, t, y)
    null = strong(x, t, torch.full_like(y, NULL))[:, :2]
    weak = {"cfg": null, "cfg-zero": null, "auto": weaker(x, t, y)[:, :2]}[kind]
    for i in range(3):
        v, u = label[i, :2], weak[i]
        u = u * (v * u).sum() / (u * u).sum() if kind == "cfg-zero" else u
        assert_close_rms(out[i, :2], u + 2.5 * (v - u))
    assert out[:, 2:].equal(label[:, 2:])


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.2, 0.6)])
@pytest.mark.parametrize("kind", GUIDANCE_KINDS)
def test_half_predictions_are_combined_with_the_scale_itself(kind, interval):
    """In bfloat16 1.4 is 1.3984: the numbers of the formula are never rounded to it."""

    def guided(dtype):
        def rounded(network):
            return lambda *given: network(*given).bfloat16().to(dtype)

        options = {"weaker": rounded(weaker)} if kind == "auto" else {}
        run = guide(rounded(strong), NONE, 1.4, kind, interval=interval, **options)
        return run(X, torch.tensor([0.1, 0.5, 0.9]), Y).double()

    assert_close_rms(guided(torch.bfloat16), guided(torch.float64), torch.float32)


@pytest.mark.parametrize("kind", GUIDANCE_KINDS)
def test_every_kind_with_a_scale_of_one_is_the_model_itself(kind):
    for t in (torch.zeros(3), T):
        assert build_kind(kind, 1.0)(X, t, Y).equal(strong(X, t, Y))


@pytest.mark.parametrize("kind", GUIDANCE_KINDS)
def test_every_kind_guides_the_first_channels_alone_when_told(kind):
    t = torch.full((3,), 0.5)
    out, label = build_kind(kind, 3.0, channels=1)(X, t, Y), strong(X, t, Y)
    assert out[:, 1:].equal(label[:, 1:])
    assert not out[0, 0].equal(label[0, 0])
    if kind != "cfg-zero":  # whose scale is one of all guided channels
        assert out[:, :1].equal(build_kind(kind, 3.0)(X, t, Y)[:, :1])
    assert build_kind(kind, 3.0, channels=7)(X, t, Y).equal(build_kind(kind, 3.0)(X, t, Y))


@pytest.mark.parametrize("kind", GUIDANCE_KINDS)
def test_every_kind_keeps_to_its_interval_on_the_clock_of_the_process(kind):
    steps = torch.tensor([900.0, 500.0, 100.0])
    out = build_kind(kind, 3.0, interval=(0.4, 0.6), clock=lambda t: beside(1 - t / 1000))(
        X, steps, Y
    )
    label = strong(X, steps, Y)
    assert_close_rms(out[[0, 2]], label[[0, 2]])
    assert not out[1].equal(label[1])


def test_zero_star_is_zero_early_where_it_acts():
    t = torch.tensor([0.0, 0.039, 0.04])
    out = build_kind("cfg-zero", 2.0)(X, t, Y)
    assert not out[:2, :2].any()
    assert out[2, :2].any()
    assert build_kind("cfg-zero", 2.0, zeroed=0.0)(X, t, Y)[0, :2].any()
    late = build_kind("cfg-zero", 2.0, interval=(0.02, 1.0))(X, t, Y)
    assert_close_rms(late[0], strong(X, t, Y)[0])
    assert not late[1, :2].any()


def test_zero_star_takes_an_unlabelled_prediction_of_zero():
    def model(x, t, y):
        return x * (y != NULL).view(-1, 1, 1, 1)

    y = torch.tensor([0, 1, 2])
    out = guide(model, NONE, 2.0, "cfg-zero", zeroed=0.0)(X, T, y)
    assert_close_rms(out, 2 * X)


@pytest.mark.parametrize("kind", ["cfg", "cfg-zero"])
def test_one_network_is_called_once_and_two_once_each(kind):
    model, other = Linear(), Linear()
    guide(model, NONE, 2.0, kind)(X, T, Y)
    assert model.batches == [6]
    guide(model, NONE, 2.0, "auto", weaker=other)(X, T, Y)
    assert (model.batches, other.batches) == ([6, 3], [3])


def test_three_channels_are_those_of_the_released_code():
    """DiCo's file holds a batch of labels 1, 2, none, none; rows 0 and 1 are the guided ones."""
    tensors = load_file(GOLDENS / "dico_tiny.safetensors")
    model = load_official(read_golden("dico_tiny")[0], family="dico")
    x, t, y = tensors["in.x"], tensors["in.t"].float(), torch.tensor([1, 2])
    out = guide(model, model.conditions.null, 1.4, channels=3)(x, t, y)
    assert_close_rms(out, tensors["out.cfg_eps_sigma"][:2], limit=GOLDEN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "cgf"}, "unknown kind of guidance 'cgf'; did you mean 'cfg'"),
        ({"kind": "auto"}, 'expected a weaker model for the guidance "auto"'),
        ({"weaker": weaker}, "got one for 'cfg'"),
        ({"channels": 0}, "at least 1 guided channel, got 2.0 and 0"),
        ({"scale": float("nan")}, "a finite guidance scale"),
        ({"kind": "cfg-zero", "zeroed": 2.0}, "expected zeroed, a time in [0, 1], got 2.0"),
    ],
)
def test_impossible_guidance_is_refused(options, message):
    with pytest.raises(InputError) as caught:
        guide(strong, NONE, **({"scale": 2.0} | options))
    assert message in str(caught.value)


@pytest.mark.parametrize("interval", [(0.6, 0.2), (-0.1, 0.5), (0.5, 1.1), (float("nan"), 1.0)])
def test_an_impossible_interval_is_refused(interval):
    with pytest.raises(InputError, match="expected a guidance interval 0 <= low <= high <= 1, got"):
        ClassifierFreeGuidance(Linear(), NONE, 2.0, interval)


def test_it_takes_an_empty_batch():
    guidance = ClassifierFreeGuidance(Linear(), NONE, 2.0)
    assert guidance(X[:0], T[:0], Y[:0]).shape == (0, 2, 2, 2)
