"""Settings as dicts: JSON there and back, and damaged ones."""

import dataclasses
import json
from shlex import split

import pytest

from convflow.recipes import create_config, list_recipes
from convflow.settings.read import flatten, show, to_dict
from convflow.training.config import TrainConfig
from convflow.training.keys import from_dict
from convflow.training.overrides import override
from convflow.types import InputError
from tests.bundle.test_config import PUBLISHED


def test_half_a_character_is_no_setting():
    with pytest.raises(InputError, match=r"expected text, got '\\ud.*'; write it in UTF-8"):
        from_dict({"images": "\udce9"})


def test_settings_from_before_there_were_kinds_mean_flow_matching():
    assert from_dict({"process": {"times": "uniform", "location": 0.0}}) == TrainConfig()
    assert from_dict({"process": {}, "codec": {}}) == TrainConfig()


@pytest.mark.parametrize("name", list_recipes())
def test_json_there_and_back(name):
    config = create_config(name)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    "tree",
    [[], {"data": 5}, {"model": {}}, {"data": {"size": 4}}, {"optim": {"lr": None}}, {"x": 1}],
)
def test_damaged_trees_are_refused(tree):
    with pytest.raises(InputError):
        from_dict(tree)


def test_settings_from_before_labels_were_asked_for():
    old = to_dict(TrainConfig())
    for key in ("labels", "label_column", "image_column"):
        del old["data"][key]
    assert from_dict(old) == TrainConfig()


def test_settings_of_sampling_are_stored():
    config = dataclasses.replace(TrainConfig(), sampling=PUBLISHED)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_sizes_there_and_back():
    config = override(TrainConfig(), split("--data.size 32x32 --data.sizes 32x32,64x32"))
    assert config.data.sizes == ((32, 32), (64, 32))
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert show(flatten(to_dict(config))["data.sizes"]) == "32x32,64x32"
    plain = override(TrainConfig(), split("--data.size 32x32"))
    assert override(config, split("--data.sizes none")) == plain


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--data.sizes 32", "--data.sizes: expected sizes such as 32x32,64x32, got '32'"),
        ("--data.sizes 32x32,0x8", "got '32x32,0x8'"),
        ("--data.sizes 32x32x3", "got '32x32x3'"),
        ("--data.sizes 8x8,8x16 --data.buckets 2", "expected sizes or --data.buckets, got both"),
        ("--data.ratios 0,2", "--data.ratios: expected"),
        ("--data.crop left", "--data.crop: expected center or random, got 'left'"),
    ],
)
def test_buckets_that_cannot_be_are_refused(words, message):
    with pytest.raises(InputError, match=message):
        override(TrainConfig(), split(words))


@pytest.mark.parametrize(("word", "hint"), [("epoch", "epochs"), ("minute", "minutes")])
def test_options_of_the_command_are_hinted_at_too(word, hint):
    with pytest.raises(InputError, match=f"did you mean '--{hint}'"):
        override(TrainConfig(), [f"--{word}", "1"])
