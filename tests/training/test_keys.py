"""Settings as dicts: JSON there and back, and damaged ones."""

import dataclasses
import json
from shlex import split

import pytest

from convflow.recipes import create_config, list_recipes
from convflow.training.config import ProcessConfig, SamplingConfig, TrainConfig
from convflow.training.keys import (
    flatten,
    from_dict,
    kind_of,
    read_pipeline,
    show,
    to_dict,
)
from convflow.training.overrides import override
from convflow.types import InputError
from tests.training.test_config import PUBLISHED


def test_half_a_character_is_no_setting():
    for convert, tree in ((from_dict, {"images": "\udce9"}), (read_pipeline, {"size": "\ud800"})):
        with pytest.raises(InputError, match=r"expected text, got '\\ud.*'; write it in UTF-8"):
            convert(tree)


def test_settings_from_before_there_were_kinds_mean_flow_matching():
    old = to_dict(TrainConfig())
    for key in ("kind", "schedule", "prediction", "variance"):
        del old["process"][key]
    assert from_dict(old) == TrainConfig()
    assert to_dict(from_dict(old)) == to_dict(TrainConfig())


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({}, ProcessConfig()),
        ({"process": "flow"}, ProcessConfig()),
        (
            {"process": {"kind": "ddpm", "variance": "large"}},
            ProcessConfig("ddpm", variance="large"),
        ),
    ],
)
def test_a_pipeline_says_its_process_or_has_flow_matching(stored, expected):
    known = read_pipeline({"size": [8, 8], "format": 1, **stored})
    assert known.process == expected
    assert read_pipeline(json.loads(json.dumps(to_dict(known)))) == known


@pytest.mark.parametrize("process", ["flw", {"kind": "dpm"}, {"schedule": "x"}, 3, {"shift": 0}])
def test_a_pipeline_with_a_damaged_process_is_refused(process):
    with pytest.raises(InputError, match=r"(expected|invalid) .*process"):
        read_pipeline({"size": [8, 8], "process": process})


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


def test_settings_of_sampling_are_stored_and_older_files_mean_the_defaults():
    known = read_pipeline({"size": [8, 8], "sampling": {"solver": "heun", "steps": 3}})
    assert known.sampling == SamplingConfig("heun", 3)
    stored = dataclasses.replace(known, sampling=PUBLISHED)
    assert read_pipeline(json.loads(json.dumps(to_dict(stored)))) == stored
    config = dataclasses.replace(TrainConfig(), sampling=PUBLISHED)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_sizes_there_and_back():
    config = override(TrainConfig(), split("--data.size 32x32 --data.sizes 32x32,64x32"))
    assert config.data.sizes == ((32, 32), (64, 32))
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert show(flatten(to_dict(config))["data.sizes"]) == "32x32,64x32"
    assert show([64, 48], kind_of("data.size")) == "64x48"
    assert show([0.9, 0.99], kind_of("optim.betas")) == "0.9,0.99"
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
        kind_of(word)
