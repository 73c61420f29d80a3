"""Settings: words in, checked dataclasses out, JSON there and back."""

import dataclasses
import json
import re
from shlex import split

import pytest

from convflow.recipes import create_config, list_recipes
from convflow.training.config import (
    ProcessConfig,
    TrainConfig,
    describe,
    differences,
    from_dict,
    override,
    read_pipeline,
    to_dict,
)
from convflow.types import InputError


def test_words_reach_their_keys():
    words = "--optim.lr 2e-4 --data.size=64x48 --batch-size 32 --data.on_bad skip --data pets"
    config = override(TrainConfig(), words.split())
    assert config.optim.lr == 2e-4
    assert config.data.size == (64, 48)
    assert config.batch_size == 32
    assert config.data.on_bad == "skip"
    assert config.data.path == "pets"


def test_settings_of_the_network_keep_their_own_types():
    config = override(TrainConfig(), split("--model.width 64 --model.reach 2.5 --model.norm rms"))
    config = override(config, ["--model.discard-half", "True"])
    wanted = {"width": 64, "reach": 2.5, "norm": "rms", "discard_half": True}
    assert config.model == {"name": "flowdcn-s/2"} | wanted


def test_another_network_brings_its_own_settings():
    recipe = create_config("pictures.flowdcn")
    words = split("--model.in-channels 3 --model.name flowdcn-b/2 --model.depth 2")
    wanted = {"name": "flowdcn-b/2", "in_channels": 3, "depth": 2}
    assert override(recipe, words).model == wanted
    same = override(recipe, ["--model.name", recipe.model["name"]])
    assert same.model == recipe.model


def test_a_longer_run_is_another_where_the_rate_depends_on_it():
    falling = override(TrainConfig(), split("--optim.schedule linear --images 80"))
    assert differences(falling, override(falling, ["--images", "160"])) == ["images (80, now 160)"]
    constant = override(falling, ["--optim.schedule", "constant"])
    assert differences(constant, override(constant, ["--images", "160"])) == []


def test_a_group_may_stand_for_its_first_key():
    words = "--process ddpm --process.variance small --data pets --process.schedule=vp"
    config = override(TrainConfig(), words.split())
    assert (config.process.kind, config.process.variance) == ("ddpm", "small")
    assert (config.process.schedule, config.process.prediction) == ("vp", "velocity")
    assert override(config, ["--process", "flow"]).process.kind == "flow"


def test_settings_from_before_there_were_kinds_mean_flow_matching():
    old = to_dict(TrainConfig())
    for key in ("kind", "schedule", "prediction", "variance"):
        del old["process"][key]
    assert from_dict(old) == TrainConfig()
    assert to_dict(from_dict(old)) == to_dict(TrainConfig())
    assert differences(from_dict(old), TrainConfig()) == []


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


def test_none_clears_an_optional_key():
    config = override(TrainConfig(), ["--micro-batch", "4"])
    assert config.micro_batch == 4
    assert override(config, ["--micro-batch", "none"]).micro_batch is None


def test_the_last_of_two_values_counts():
    assert override(TrainConfig(), split("--seed 1 --seed 2")).seed == 2


@pytest.mark.parametrize("name", list_recipes())
def test_json_there_and_back(name):
    config = create_config(name)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--optm.lr 1", "unknown option '--optm.lr'; did you mean '--optim.lr'?"),
        ("--batch 1", "did you mean '--batch-size'?"),
        ("--images", "expected a value after it"),
        ("--images --seed 1", "expected a value after it"),
        ("word", "expected an option"),
        ("-- 1", "expected an option"),
        ("--images 0", "--images: expected int >= 1, got '0'"),
        ("--images 1.5", "--images: expected a whole number, got '1.5'"),
        (f"--images {10**30}", "--images: expected int <= "),
        ("--micro-batch 0", "--micro-batch: expected int >= 1"),
        ("--seed -1", "--seed: expected int >= 0"),
        ("--optim.lr 0", "--optim.lr: expected float > 0"),
        ("--optim.lr nan", "--optim.lr: expected float > 0"),
        ("--optim.lr inf", "--optim.lr: expected a finite number"),
        ("--optim.betas 0.9x1", "--optim.betas: expected float < 1"),
        ("--sampling.guidance nan", "--sampling.guidance: expected a finite number"),
        ("--data.size 64", "--data.size: expected two numbers such as 64x48, got '64'"),
        ("--data.size 0x8", "--data.size: expected int >= 1, got '0x8'"),
        ("--data.size axb", "--data.size: expected two numbers"),
        ("--data.flip maybe", "--data.flip: expected true or false, got 'maybe'"),
        ("--data.channels 2", "--data.channels: expected 1 or 3, got '2'"),
        ("--optim.schedule cosine", "expected constant or linear, got 'cosine'"),
        ("--label-dropout 1.5", "--label-dropout: expected float <= 1"),
        ("--process ddmp", "--process.kind: expected flow or ddpm or dfm, got 'ddmp'"),
        ("--process.schedule sine", "--process.schedule: expected linear or cosine or vp, got"),
        ("--process.prediction eps", "expected velocity or noise or data or score, got 'eps'"),
        ("--process.variance none", "--process.variance: expected learned or small or large"),
        ("--process.shift 0", "--process.shift: expected float > 0"),
        ("--process.kin ddpm", "did you mean '--process.kind'?"),
        ("--optim 3", "--optim is a group; set one of --optim.lr"),
        ("--model flowdcn", "--model is a group; set one of its keys"),
        ("--model.width.x 3", "expected --model.SETTING"),
        ("--model.name 3", "--model.name: expected the name of a network"),
        ("--model.reach NaN", "--model.reach: expected a finite number"),
    ],
)
def test_what_does_not_fit_is_named(words, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        override(TrainConfig(), words.split())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "tree", [{"data": 5}, {"model": {}}, {"data": {"size": 4}}, {"optim": {"lr": None}}, {"x": 1}]
)
def test_damaged_trees_are_refused(tree):
    with pytest.raises(InputError):
        from_dict(tree)


def test_differences_name_old_and_new_and_pass_what_may_change():
    old = TrainConfig()
    free = "--images 5 --device cpu --monitor.log-every 3 --checkpoint.keep 9 --micro-batch 2"
    assert differences(old, override(old, [*free.split(), "--sampling.steps", "3"])) == []
    new = override(old, split("--optim.lr 1 --model.width 8"))
    assert differences(old, new) == ["model.width (None, now 8)", "optim.lr (0.0001, now 1.0)"]


def test_describe_lists_every_key_in_a_form_that_can_be_given_back():
    config = create_config("digits.flowdcn")
    rows = {key: value for key, value, _ in describe(config)}
    groups = [f for f in dataclasses.fields(config) if dataclasses.is_dataclass(f.default)]
    assert {f"{f.name}." for f in groups} <= {key.split(".")[0] + "." for key in rows}
    words = [word for key, value in rows.items() for word in (f"--{key}", value)]
    assert override(TrainConfig(), words) == config
    assert all(text for key, _, text in describe(config) if not key.startswith("model."))
