"""What a model folder says of its model: checked, stored and read."""

import dataclasses
import json

import pytest

from convflow.bundle.config import SamplingConfig, read_pipeline
from convflow.processes.process import create_process
from convflow.samplers.sde import SDE
from convflow.samplers.solvers import create_solver
from convflow.settings.read import to_dict
from convflow.types import InputError

PUBLISHED = SamplingConfig(
    SDE(steps=250, last_step=0.04, diffusion="flowdcn", last="euler"),
    1.375,
    label_policy="random",
    channels_guided=3,
)
DDPM_WITH_MORE = {"process": {"kind": "ddpm", "location": 0.0}}
FLOW, DFM = create_process("flow"), create_process("dfm")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"solver": "heum"}, "unknown solver 'heum'; did you mean 'heun'"),
        (
            {"solver": "heun", "eta": 0.5},
            "the solver heun has no eta; leave it out, or choose ddim",
        ),
        ({"solver": "ddim", "eta": 1.5}, "eta: expected a number of at most 1"),
        ({"solver": "ddpm", "last_step": 0.04}, "the solver ddpm has no last-step"),
        ({"solver": "euler-maruyama", "diffusion": "sigm"}, "unknown diffusion 'sigm'"),
        ({"solver": "euler-maruyama", "last": "mena"}, "unknown last step 'mena'"),
        (
            {"solver": "euler-maruyama", "strength": -1.0},
            "strength: expected a number of at least 0",
        ),
        ({"solver": "dopri5", "atol": 0.0}, "atol: expected a number above 0"),
        ({"guidance_kind": "auto"}, "guidance_kind: expected cfg or cfg-zero, got 'auto'"),
        ({"guidance_kind": "cgf"}, "guidance_kind: expected cfg or cfg-zero"),
        ({"interval": (0.5, 0.2)}, "expected a guidance interval"),
        ({"channels_guided": 0}, "channels_guided: expected a whole number of at least 1"),
        ({"guidance": float("inf")}, "guidance: expected a finite number"),
        ({"label_policy": "balance"}, "label_policy: expected balanced or random"),
        ({"steps": 1, "last_step": 0.04}, "at least 2 steps with a last_step"),
    ],
)
def test_a_combination_that_means_nothing_is_refused_where_it_is_built(settings, message):
    with pytest.raises(InputError, match=message):
        SamplingConfig().varied(FLOW, **settings)
    solver = {"kind": settings.pop("solver", "euler")}
    for name in settings.keys() - {"guidance_kind", "interval", "channels_guided", "label_policy"}:
        solver[name] = settings.pop(name)
    if settings.get("guidance_kind") != "cfg-zero":
        stored = {"size": [8, 8], "sampling": {"solver": solver, **settings}}
        with pytest.raises(InputError) as caught:
            read_pipeline(json.loads(json.dumps(stored)))
        assert "\n" not in str(caught.value)


def test_another_solver_leaves_behind_what_means_nothing_to_it():
    heun = PUBLISHED.varied(FLOW, solver="heun")
    assert heun == dataclasses.replace(
        PUBLISHED, solver=create_solver("heun", steps=250, last_step=0.04)
    )
    assert PUBLISHED.varied(FLOW, solver="ddpm").solver == create_solver("ddpm", steps=250)
    assert PUBLISHED.varied(FLOW, steps=1, solver="euler").solver.last_step is None
    assert PUBLISHED.varied(FLOW, steps=9).solver.diffusion == "flowdcn"
    zero = SamplingConfig(guidance_kind="cfg-zero")
    assert zero.varied(FLOW, solver="ddim").guidance_kind == "cfg"
    assert zero.varied(FLOW, solver="heun").guidance_kind == "cfg-zero"
    for given in ({"solver": "heun", "eta": 0.5}, {"steps": 1, "last_step": 0.04}):
        with pytest.raises(InputError):
            PUBLISHED.varied(FLOW, **given)
    refused = zero.varied(FLOW, solver="ddim", guidance_kind="cfg-zero")
    with pytest.raises(InputError, match="cfg-zero is for velocities"):
        refused.check(create_process("ddpm"))


def test_stages_stay_where_they_mean_something():
    stored = SamplingConfig(
        create_solver(steps=40, stage_steps=(30, 10), thresholds=(0.7,), stop_scale=1)
    )
    assert stored.varied(DFM, guidance=3.0) == dataclasses.replace(stored, guidance=3.0)
    fewer = stored.varied(DFM, steps=8).solver
    assert (fewer.steps, fewer.stage_steps, fewer.thresholds) == (8, (), (0.7,))
    others = stored.varied(DFM, stage_steps=(6, 2)).solver
    assert (others.steps, others.stage_steps) == (8, (6, 2))
    assert stored.varied(FLOW) == SamplingConfig(create_solver("euler", steps=40))
    shifted = SamplingConfig(create_solver(steps=40, shift=3.0, last_step=0.04))
    assert shifted.varied(DFM).solver == create_solver(steps=40)
    for given in (
        {"steps": 8, "stage_steps": (6, 3)},
        {"stage_steps": 8},
        {"stage_steps": (6.5, 2)},
        {"thresholds": 0.9},
        {"thresholds": "0.9"},
        {"solver": "dopri5", "thresholds": (0.9,)},
    ):
        with pytest.raises(InputError) as caught:
            stored.varied(DFM, **given)
        assert "\n" not in str(caught.value)
    zero = SamplingConfig(create_solver("euler", steps=40), guidance_kind="cfg-zero")
    assert zero.varied(DFM, steps=8).guidance_kind == "cfg-zero"
    assert zero.varied(DFM, solver="heun").guidance_kind == "cfg"  # which a pause would harm
    with pytest.raises(
        InputError, match=r"thresholds: expected several numbers such as 2,2, got '0\.9'"
    ):
        stored.varied(DFM, thresholds=0.9)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({}, create_process()),
        ({"process": "flow"}, create_process()),
        (
            {"process": {"kind": "ddpm", "variance": "large"}},
            create_process("ddpm", variance="large"),
        ),
    ],
)
def test_a_pipeline_says_its_process_or_has_flow_matching(stored, expected):
    known = read_pipeline({"size": [8, 8], "format": 1, **stored})
    assert known.process == expected
    assert read_pipeline(json.loads(json.dumps(to_dict(known)))) == known


@pytest.mark.parametrize("process", ["flw", {"kind": "dpm"}, {"schedule": "x"}, 3, {"shift": 0}])
def test_a_pipeline_with_a_damaged_process_is_refused(process):
    with pytest.raises(InputError, match=r"process|schedule"):
        read_pipeline({"size": [8, 8], "process": process})


def test_settings_of_other_kinds_are_refused_even_at_their_defaults():
    for part in (DDPM_WITH_MORE, {"codec": {"scale": 0.18215}}):
        with pytest.raises(InputError, match=r"has no .*; leave it out, or choose"):
            read_pipeline({"size": [8, 8], **part})


def test_settings_of_sampling_are_stored_and_older_files_mean_the_defaults():
    known = read_pipeline({"size": [8, 8], "sampling": {"solver": "heun", "steps": 3}})
    assert known.sampling == SamplingConfig(create_solver("heun", steps=3))
    stored = dataclasses.replace(known, sampling=PUBLISHED)
    assert read_pipeline(json.loads(json.dumps(to_dict(stored)))) == stored


def test_half_a_character_is_no_description():
    with pytest.raises(InputError, match=r"expected text, got '\\ud.*'; write it in UTF-8"):
        read_pipeline({"size": "\ud800"})


def test_a_process_names_in_what_another_needs_another_network():
    ours, theirs = create_process(shift=2.0), create_process(schedule="vp", prediction="noise")
    assert ours.misfits(create_process()) == {}
    found = {"schedule": ("linear", "vp"), "prediction": ("velocity", "noise")}
    assert ours.misfits(theirs) == found
