"""What a model folder says of its model: checked, stored and read."""

import dataclasses
import json

import pytest

from convflow.bundle.config import ProcessConfig, SamplingConfig, read_pipeline
from convflow.samplers.sampler import Sampler
from convflow.settings.read import to_dict
from convflow.types import InputError

PUBLISHED = SamplingConfig(
    "euler-maruyama", 250, 1.375, label_policy="random", last_step=0.04, diffusion="flowdcn",
    last="euler", channels_guided=3,
)  # fmt: skip


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
    zero = SamplingConfig("euler", 40, guidance_kind="cfg-zero")
    assert zero.varied("dfm", steps=8).guidance_kind == "cfg-zero"
    assert zero.varied("dfm", solver="heun").guidance_kind == "cfg"  # which a pause would harm
    with pytest.raises(InputError, match=r"expected several numbers for thresholds, got 0\.9"):
        stored.varied("dfm", thresholds=0.9)


def test_settings_of_sampling_are_those_of_the_sampler():
    defaults = SamplingConfig()
    assert defaults.sampler() == Sampler()
    assert PUBLISHED.sampler() == Sampler(
        "euler-maruyama", 250, last_step=0.04, diffusion="flowdcn", last="euler"
    )


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


def test_settings_of_sampling_are_stored_and_older_files_mean_the_defaults():
    known = read_pipeline({"size": [8, 8], "sampling": {"solver": "heun", "steps": 3}})
    assert known.sampling == SamplingConfig("heun", 3)
    stored = dataclasses.replace(known, sampling=PUBLISHED)
    assert read_pipeline(json.loads(json.dumps(to_dict(stored)))) == stored


def test_half_a_character_is_no_description():
    with pytest.raises(InputError, match=r"expected text, got '\\ud.*'; write it in UTF-8"):
        read_pipeline({"size": "\ud800"})


def test_a_process_names_in_what_another_needs_another_network():
    ours, theirs = ProcessConfig(shift=2.0), ProcessConfig(schedule="vp", prediction="noise")
    assert ours.misfits(ProcessConfig()) == {}
    found = {"schedule": ("linear", "vp"), "prediction": ("velocity", "noise")}
    assert ours.misfits(theirs) == found
