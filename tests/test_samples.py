"""A series of samples: each picture depends on the settings and its number alone."""

import json

import pytest
import torch

from convflow.codecs import PixelCodec
from convflow.pipeline import Pipeline
from convflow.training.config import SamplingConfig
from convflow.types import InputError
from tests.cases import build


@pytest.fixture
def pipe():
    return Pipeline(build("flowdcn"), PixelCodec(), (4, 6), (), SamplingConfig("euler", 2, 1.5))


def test_reading_makes_the_pictures_of_the_pipeline(pipe):
    samples = pipe.samples(seed=3, size=(8, 4))
    apart = torch.cat([samples.read(range(2, 5)), samples.read([0, 1])])
    assert apart.equal(pipe(num=5, seed=3, size=(8, 4)).pixels[[2, 3, 4, 0, 1]])


def test_progress_adds_up_to_the_number_of_pictures(pipe):
    told = []
    pipe.samples(steps=4).read(range(3), told.append)
    assert len(told) == 4
    assert sum(told) == pytest.approx(3)


def test_balanced_labels_come_in_turn(pipe):
    assert pipe.samples().labels(range(3, 8)).tolist() == [3, 4, 0, 1, 2]
    assert pipe.samples([4, 1]).labels(range(3)).tolist() == [4, 1, 4]


def test_random_labels_depend_on_seed_and_number_alone(pipe):
    samples = pipe.samples([1, 3, None], label_policy="random")
    labels = samples.labels(range(300))
    assert set(labels.tolist()) == {1, 3, 5}
    assert torch.bincount(labels).max() < 130
    assert samples.labels([7, 250]).equal(labels[[7, 250]])
    other = pipe.samples([1, 3, None], label_policy="random", seed=1).labels(range(300))
    assert not labels.equal(other)


def test_the_description_changes_with_every_setting(pipe):
    plain = pipe.samples()
    text = json.dumps(plain.describe())
    changed = [
        pipe.samples(**{name: value}).describe()
        for name, value in {
            "labels": [0], "size": 8, "steps": 3, "guidance": 2.0, "interval": (0.1, 1.0),
            "solver": "heun", "seed": 1, "shift": 2.0, "last_step": 0.04,
            "label_policy": "random", "precision": "bfloat16", "reach": 3.0,
        }.items()
    ]  # fmt: skip
    assert len({text, *map(json.dumps, changed)}) == 13
    assert plain.describe()["labels"] == {"policy": "balanced", "classes": "all"}


def test_bfloat16_is_near_but_not_the_same(pipe):
    exact, half = (
        pipe.samples(precision=p).read(range(4)).float() for p in ("float32", "bfloat16")
    )
    assert 0 < (exact - half).abs().mean() < 2


def test_a_model_that_gives_nan_is_named_with_the_sample(pipe, monkeypatch):
    def broken(x, t, y):
        return torch.where(torch.arange(len(x)).view(-1, 1, 1, 1) == 1, torch.nan, x)

    monkeypatch.setattr(pipe.model, "forward", broken)
    with pytest.raises(InputError, match="NaN or infinity for sample 6"):
        pipe.samples(guidance=1.0).read(range(5, 8))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"label_policy": "balance"}, "unknown label policy 'balance'; did you mean 'balanced'"),
        ({"precision": "float16"}, "unknown precision 'float16'"),
        ({"solver": "hoin"}, "unknown solver"),
        ({"stepss": 3}, "unknown option 'stepss'; did you mean 'steps'"),
    ],
)
def test_unknown_words_are_refused(pipe, bad, message, unchecked):
    with pytest.raises(InputError, match=message):
        pipe.samples(**bad)
