"""Processes by name, and what all of them promise."""

from __future__ import annotations

import dataclasses
import json
import typing

import msgspec
import pytest

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
    assert create_process(kind, **dataclasses.asdict(process)) == process


@pytest.mark.parametrize("kind", PROCESSES)
def test_every_setting_has_a_line_of_help_and_is_read_from_json(kind):
    process = create_process(kind)
    for annotation in typing.get_type_hints(type(process), include_extras=True).values():
        if typing.get_origin(annotation) is not typing.ClassVar:
            assert msgspec.inspect.type_info(annotation).extra_json_schema["description"]
    settings = json.loads(json.dumps(dataclasses.asdict(process)))
    assert msgspec.convert(settings, type(process)) == process
    with pytest.raises(dataclasses.FrozenInstanceError):
        process.scale = 2.0


def test_a_process_of_the_users_own_module_is_found():
    assert type(create_process("tests.processes.test_process:Own", width=2)) is Own
    with pytest.raises(InputError, match=r"expected a subclass of .*:Process"):
        create_process("tests.processes.test_process:json")


@dataclasses.dataclass(frozen=True)
class Own(Process):
    """A process of a user."""

    width: int = 1


def test_settings_reach_the_process():
    flow = create_process(schedule="cosine", prediction="noise", shift=3.0)
    assert isinstance(flow, FlowMatching)
    assert flow.path is SCHEDULES["cosine"]
    assert (flow.prediction, flow.shift, flow.learned_variance) == ("noise", 3.0, False)
    fixed = create_process("ddpm", variance="large")
    assert isinstance(fixed, DDPM)
    assert (fixed.variance, fixed.learned_variance, fixed.prediction) == ("large", False, "noise")
    assert create_process("ddpm").learned_variance


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["dpm"], r"unknown process 'dpm'; did you mean 'ddpm'\?"),
        (["flow", "schedul"], r"process flow: unknown setting 'schedul'; did you mean 'schedule'"),
        (["ddpm", "schedule"], "the process ddpm has no schedule; leave it out, or choose flow"),
        (["flow", "variance"], "the process flow has no variance; leave it out, or choose ddpm"),
        (["ddpm", "location"], "has no location; leave it out, or choose flow or meanflow or dfm"),
        (["dfm", "schedule"], "the process dfm has no schedule"),
        (["flow", "factors"], "the process flow has no factors.* dfm"),
    ],
)
def test_what_does_not_fit_is_refused(given, message, unchecked):
    with pytest.raises(InputError, match=message):
        create_process(given[0], **dict.fromkeys(given[1:], 1))
    with pytest.raises(InputError, match=r"unknown schedule 'vpp'; did you mean 'vp'\?"):
        create_process(schedule="vpp")
