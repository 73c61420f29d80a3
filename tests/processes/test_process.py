"""Processes by name, and what all of them promise."""

from __future__ import annotations

import dataclasses

import pytest

from convflow.bundle.config import ProcessConfig
from convflow.processes.ddpm import DDPM
from convflow.processes.flow import FlowMatching
from convflow.processes.process import PROCESSES, Process, create_process
from convflow.processes.schedule import SCHEDULES
from convflow.types import InputError


@pytest.mark.parametrize("kind", PROCESSES)
def test_every_process_keeps_the_protocol(kind):
    process = create_process(kind)
    assert isinstance(process, Process)
    assert type(process) is PROCESSES[kind]
    settings = dataclasses.asdict(ProcessConfig(kind=kind))
    assert type(create_process(settings)) is PROCESSES[kind]


def test_settings_reach_the_process():
    flow = create_process(schedule="cosine", prediction="noise", shift=3.0)
    assert isinstance(flow, FlowMatching)
    assert flow.schedule is SCHEDULES["cosine"]
    assert (flow.prediction, flow.shift, flow.learned_variance) == ("noise", 3.0, False)
    fixed = create_process({"kind": "ddpm", "variance": "large"})
    assert isinstance(fixed, DDPM)
    assert (fixed.variance, fixed.learned_variance, fixed.prediction) == ("large", False, "noise")
    assert create_process("ddpm").learned_variance


def test_the_configuration_has_every_setting_with_its_default():
    known = dataclasses.asdict(ProcessConfig())
    for kind in PROCESSES:
        given = {name: value for name, value in known.items() if name != "kind"}
        create_process(kind, **given)  # all defaults agree, or this would refuse one
    assert create_process(known).shift == 1.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "dpm"}, r"unknown process 'dpm'; did you mean 'ddpm'\?"),
        ({"schedul": "vp"}, r"flow: unknown setting 'schedul'; did you mean 'schedule'\?"),
        (
            {"kind": "ddpm", "schedule": "vp"},
            "the process 'ddpm' has no setting 'schedule', got 'vp'; leave it out, or choose the "
            "process 'flow'",
        ),
        ({"variance": "small"}, "the process 'flow' has no setting 'variance', got 'small'"),
        (
            {"kind": "ddpm", "location": 0.5},
            "got 0.5; leave it out, or choose the process 'flow' or 'dfm'",
        ),
        ({"kind": "dfm", "schedule": "vp"}, "the process 'dfm' has no setting 'schedule'"),
        ({"factors": (4,)}, "the process 'flow' has no setting 'factors'.* the process 'dfm'"),
        ({"schedule": "vpp"}, r"unknown schedule 'vpp'; did you mean 'vp'\?"),
    ],
)
def test_what_does_not_fit_is_refused(given, message, unchecked):
    with pytest.raises(InputError, match=message):
        create_process(given)
