"""Titles of scores, what a card says of a detector, and features that do not fit."""

import dataclasses

import numpy as np
import pytest
import torch

from convflow.evaluation.detectors import PUBLISHED, Detector
from convflow.evaluation.features import extract
from convflow.evaluation.reference import Reference
from convflow.evaluation.scores import describe_detector, score
from convflow.types import InputError
from tests.evaluation.test_features import CPU, RandomImages
from tests.extending.detector import load


@pytest.fixture
def detector():
    return Detector("tiny", "00", "none", load())


@pytest.fixture
def features(detector, tmp_path):
    return extract(RandomImages(), 23, detector, tmp_path, batch_size=23, device=CPU)


def titles(features, detector):
    return [t.rpartition("-")[0] for t in score(features, features.summarise({}), detector)[0]]


def test_titles_follow_from_the_weights(features, detector):
    inception = Detector("inception", PUBLISHED["inception"].sha256 + "00", "x", load())
    assert titles(features, inception)[:3] == ["FID", "sFID", "IS"]
    assert titles(features, inception)[-2:] == ["KID", "KID-std"]
    assert titles(features, Detector("dinov2", "12", "x", load()))[0] == "FDD"
    assert titles(features, detector)[0] == "FD"
    assert titles(features, dataclasses.replace(inception, sha256="00"))[0] == "FD"


@pytest.mark.parametrize(("name", "k"), [("inception", 3), ("tiny", 3), ("dinov2", 5)])
def test_neighbours_of_precision_and_recall_are_the_published_ones(features, monkeypatch, name, k):
    asked = []
    known = lambda real, fake, k: asked.append(k) or (0.0, 0.0)  # noqa: E731
    monkeypatch.setattr("convflow.evaluation.metrics.precision_recall", known)
    score(features, features.summarise({}), Detector(name, "00", "x", load()))
    assert asked == [k]


def test_features_of_another_width(features, detector):
    rows = torch.ones(23, 12)
    narrow = Reference({"features": features.moments("spatial")}, rows)
    with pytest.raises(InputError, match=r"expected 13 features as tiny gives, got .* 16"):
        score(features, narrow, detector)


def test_a_probe_tells_detectors_apart_whose_code_is_the_same(detector):
    images, calls = RandomImages(), []

    def network(x):
        calls.append(x.shape)
        return {"features": 1.1 * load()(x)["features"]}

    other = dataclasses.replace(detector, network=network)
    one, two = (describe_detector(d, images) for d in (detector, other))
    assert describe_detector(other, images) == two
    assert calls == [(2, images.channels, *images.size)]  # asked once
    assert one["sha256"] == two["sha256"]
    assert float(two["probe"]) == pytest.approx(1.1 * float(one["probe"]), rel=0.01)
    assert describe_detector(detector, images) == one
    published = dataclasses.replace(detector, name="inception")
    assert "probe" not in describe_detector(published, images)
    assert (
        describe_detector(dataclasses.replace(detector, name="a/b.py:c"), images)["name"]
        == "b.py:c"
    )


def test_scores_are_plain_floats(features, detector):
    found, _ = score(features, features.summarise({}), detector)
    assert all(type(value) is float for value in found.values())
    assert np.isfinite(list(found.values())).all()


def test_every_score_says_which_values_are_better(features, detector):
    found, better = score(features, features.summarise({}), detector)
    assert {title.rpartition("-")[0]: word for title, word in better.items()} == {
        "FD": "lower", "sFD": "lower", "IS": "higher", "precision": "higher", "recall": "higher",
        "density": "higher", "coverage": "higher", "KD": "lower", "KD-std": "spread",
    }  # fmt: skip
    assert better.keys() == found.keys()


def test_only_what_is_named_is_computed(features, detector):
    reference = features.summarise({})
    found, _ = score(features, reference, detector, names=["precision-recall", "is"])
    assert list(found) == ["precision-23", "recall-23", "IS-23"]
    without = dataclasses.replace(reference, manifold=None)
    with pytest.raises(InputError, match=r"--metrics: expected manifold of tiny and .* for kid"):
        score(features, without, detector, names=["kid"])
    with pytest.raises(InputError, match="unknown metric 'fdi'; did you mean 'fid'"):
        score(features, reference, detector, names=["fdi"])
