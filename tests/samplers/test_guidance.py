"""Classifier-free guidance: its formula, its interval, its cost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convflow.samplers.guidance import ClassifierFreeGuidance
from convflow.types import InputError
from tests.cases import build, inputs
from tests.tolerance import assert_close_rms

NULL = 5
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
    out = ClassifierFreeGuidance(model, NULL, scale, interval)(X, t, Y)
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
    assert ClassifierFreeGuidance(model, model.num_classes, 1.0)(x, t, y).equal(model(x, t, y))


def test_no_label_needs_no_guidance():
    out, _ = guided(7.0)
    assert_close_rms(out[2], X[2] * (NULL + 1))


def test_it_guides_a_real_network():
    model = build("flowdcn")
    x, t, _ = inputs(model)
    y, null = torch.tensor([0, 1, 2]), torch.full((3,), model.num_classes)
    out = ClassifierFreeGuidance(model, model.num_classes, 3.0)(x, t, y)
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


@pytest.mark.parametrize("interval", [(0.6, 0.2), (-0.1, 0.5), (0.5, 1.1), (float("nan"), 1.0)])
def test_an_impossible_interval_is_refused(interval):
    with pytest.raises(InputError, match="expected a guidance interval 0 <= low <= high <= 1, got"):
        ClassifierFreeGuidance(Linear(), NULL, 2.0, interval)


def test_it_takes_an_empty_batch():
    guidance = ClassifierFreeGuidance(Linear(), NULL, 2.0)
    assert guidance(X[:0], T[:0], Y[:0]).shape == (0, 2, 2, 2)
