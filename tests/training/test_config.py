"""Settings: checked dataclasses, JSON there and back, what a resumed run may change."""

import dataclasses
import json
from shlex import split

import pytest

from convflow.recipes import create_config, list_recipes
from convflow.samplers.sampler import Sampler
from convflow.training.config import (
    ProcessConfig,
    SamplingConfig,
    TrainConfig,
    differences,
    from_dict,
    read_pipeline,
    to_dict,
)
from convflow.training.overrides import override
from convflow.types import InputError


def test_a_longer_run_is_another_where_the_rate_depends_on_it():
    falling = override(TrainConfig(), split("--optim.schedule linear --images 80"))
    assert differences(falling, override(falling, ["--images", "160"])) == ["images (80, now 160)"]
    constant = override(falling, ["--optim.schedule", "constant"])
    assert differences(constant, override(constant, ["--images", "160"])) == []


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


@pytest.mark.parametrize("name", list_recipes())
def test_json_there_and_back(name):
    config = create_config(name)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


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


PUBLISHED = SamplingConfig(
    "euler-maruyama", 250, 1.375, label_policy="random", last_step=0.04, diffusion="flowdcn",
    last="euler", channels_guided=3,
)  # fmt: skip


def test_settings_of_sampling_are_stored_and_older_files_mean_the_defaults():
    known = read_pipeline({"size": [8, 8], "sampling": {"solver": "heun", "steps": 3}})
    assert known.sampling == SamplingConfig("heun", 3)
    stored = dataclasses.replace(known, sampling=PUBLISHED)
    assert read_pipeline(json.loads(json.dumps(to_dict(stored)))) == stored
    config = dataclasses.replace(TrainConfig(), sampling=PUBLISHED)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"solver": "heum"}, "unknown solver 'heum'; did you mean 'heun'"),
        ({"solver": "heun", "eta": 0.5}, "the solver heun has no eta, got 0.5"),
        ({"solver": "ddim", "eta": 1.5}, "expected eta in"),
        ({"solver": "ddpm", "last_step": 0.04}, "the solver ddpm has no last-step"),
        ({"solver": "euler-maruyama", "diffusion": "sigm"}, "unknown diffusion 'sigm'"),
        ({"solver": "euler-maruyama", "last": "mena"}, "unknown last step 'mena'"),
        ({"solver": "euler-maruyama", "strength": -1.0}, "finite strength of at least 0"),
        ({"solver": "dopri5", "atol": 0.0}, "expected finite tolerances above 0"),
        ({"solver": "ddpm", "guidance_kind": "cfg-zero"}, "cfg-zero is for velocities"),
        ({"guidance_kind": "auto"}, "expected a weaker model"),
        ({"guidance_kind": "cgf"}, "unknown kind of guidance 'cgf'"),
        ({"interval": (0.5, 0.2)}, "expected a guidance interval"),
        ({"channels_guided": 0}, "at least 1 guided channel"),
        ({"guidance": float("inf")}, "expected a finite guidance"),
        ({"label_policy": "balance"}, "unknown label policy 'balance'"),
        ({"steps": 1, "last_step": 0.04}, "at least 2 steps with a last_step"),
    ],
)
def test_a_combination_that_means_nothing_is_refused_where_it_is_built(settings, message):
    with pytest.raises(InputError, match=message):
        SamplingConfig(**settings)
    if settings.get("guidance") is None and "kind" not in str(message):
        stored = {"size": [8, 8], "sampling": settings}
        with pytest.raises(InputError) as caught:
            read_pipeline(json.loads(json.dumps(stored)))
        assert "\n" not in str(caught.value)


def test_another_solver_leaves_behind_what_means_nothing_to_it():
    heun = PUBLISHED.varied("flow", solver="heun")
    assert heun == SamplingConfig(
        "heun", 250, 1.375, label_policy="random", last_step=0.04, channels_guided=3
    )
    assert PUBLISHED.varied("flow", solver="ddpm").last_step is None
    assert PUBLISHED.varied("flow", steps=1, solver="euler").last_step is None
    assert PUBLISHED.varied("flow", steps=9).diffusion == "flowdcn"
    zero = SamplingConfig(guidance_kind="cfg-zero")
    assert zero.varied("flow", solver="ddim").guidance_kind == "cfg"
    assert zero.varied("flow", solver="heun").guidance_kind == "cfg-zero"
    for given in ({"solver": "heun", "eta": 0.5}, {"steps": 1, "last_step": 0.04}):
        with pytest.raises(InputError):
            PUBLISHED.varied("flow", **given)
    with pytest.raises(InputError, match="cfg-zero is for velocities"):
        zero.varied("flow", solver="ddim", guidance_kind="cfg-zero")


def test_stages_stay_where_they_mean_something():
    stored = SamplingConfig("euler", 40, stage_steps=(30, 10), thresholds=(0.7,), stop_scale=1)
    assert stored.varied("dfm", guidance=3.0) == dataclasses.replace(stored, guidance=3.0)
    fewer = stored.varied("dfm", steps=8)
    assert (fewer.steps, fewer.stage_steps, fewer.thresholds) == (8, (), (0.7,))
    others = stored.varied("dfm", stage_steps=(6, 2))
    assert (others.steps, others.stage_steps) == (8, (6, 2))
    assert stored.varied("flow") == SamplingConfig("euler", 40)
    shifted = SamplingConfig("euler", 40, shift=3.0, last_step=0.04)
    assert shifted.varied("dfm").sampler() == Sampler("euler", 40)
    for given in (
        {"steps": 8, "stage_steps": (6, 3)},
        {"stage_steps": 8},
        {"stage_steps": (6.5, 2)},
        {"thresholds": 0.9},
        {"thresholds": "0.9"},
        {"solver": "dopri5", "thresholds": (0.9,)},
    ):
        with pytest.raises(InputError) as caught:
            stored.varied("dfm", **given)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"expected several numbers for thresholds, got 0\.9"):
        stored.varied("dfm", thresholds=0.9)


def test_settings_of_sampling_are_those_of_the_sampler():
    defaults = SamplingConfig()
    assert defaults.sampler() == Sampler()
    assert PUBLISHED.sampler() == Sampler(
        "euler-maruyama", 250, last_step=0.04, diffusion="flowdcn", last="euler"
    )
