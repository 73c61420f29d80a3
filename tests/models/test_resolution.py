"""What a network is told at a size: words, records and numbers, for every process alike."""

from __future__ import annotations

import json

import pytest
import torch

from convflow.models.resolution import POSITION_SCALINGS, Resolution, read_arguments
from convflow.models.zoo import create_model
from convflow.nn.positions import SCALINGS, PositionScaling
from convflow.nn.reach import ReachSchedule
from convflow.processes.ddpm import DDPM
from convflow.processes.flow import FlowMatching
from convflow.processes.multiscale import MultiscaleFlow
from convflow.types import InputError
from tests.cases import TINY, build, build_pyramid, inputs, perturb
from tests.tolerance import assert_close_rms

SCHEDULE = ReachSchedule(blocks=(1, 1))


def test_words_become_records():
    model = build("flowdcn")
    assert read_arguments(model, {"reach": "auto"}) == {"reach": ReachSchedule()}
    for reach in (3.0, (2.0, 4.0), SCHEDULE):
        assert read_arguments(model, {"reach": reach}) == {"reach": reach}
    assert read_arguments(model, {"reach": None, "position_scaling": "none"}) == {}
    for kind in SCALINGS["rotary"]:
        given = {"position_scaling": kind}
        assert read_arguments(build("sit-rotary"), given) == given


@pytest.mark.parametrize(
    ("case", "given", "message"),
    [
        ("flowdcn", {"reach": "far"}, "expected a reach in cells or auto, got 'far'"),
        ("dico", {"reach": "auto"}, "dico has no reach, got auto; .*belongs to flowdcn"),
        ("fcdm", {"position_scaling": "pi"}, "fcdm has no position_scaling, .*to dit and sit"),
        ("flowdcn", {"position_scaling": "pi"}, "flowdcn has no position_scaling"),
        ("sit", {"position_scaling": "nkt"}, "position scaling 'nkt'; did you mean 'ntk'"),
    ],
)
def test_what_a_network_does_not_take_is_refused(case, given, message):
    with pytest.raises(InputError, match=message):
        read_arguments(build(case), given)


def test_a_pyramid_takes_what_its_backbone_does():
    model = build_pyramid()
    assert read_arguments(model, {"reach": 3.0}) == {"reach": 3.0}
    with pytest.raises(InputError, match="flowdcn has no position_scaling"):
        read_arguments(model, {"position_scaling": "pi"})


def test_the_ratio_is_that_of_each_axis():
    assert Resolution((12, 8), (8, 16)).ratio == (0.5, 1.5)


def test_numbers_pass_and_records_are_worked_out():
    model, t = build("flowdcn-patch-3"), torch.tensor([0.0, 0.3])
    wide = Resolution((12, 36), (12, 24))
    assert wide.arguments(model, {"reach": 4.0}, t) == {"reach": 4.0}
    found = wide.arguments(model, {"reach": SCHEDULE}, t)["reach"]
    assert found.equal(SCHEDULE.at(t, (1.5, 1.0), 2.5, 2))  # its own reach and depth
    kind = {"position_scaling": "ei"}
    described = Resolution((48, 48), (24, 16)).arguments(build("dit-patch-4"), kind, t)
    assert described == {"position_scaling": PositionScaling("ei", 6, 4)}
    assert wide.arguments(build("dico"), {"reach": SCHEDULE}, t) == {}  # for a weaker model


def test_the_network_of_a_size_is_told_at_every_call():
    model, (x, t, y) = build("flowdcn"), inputs(build("flowdcn"), size=(4, 8))
    resolution = Resolution((8, 16), (8, 8))
    network = resolution.network(model, {"reach": SCHEDULE}, FlowMatching().flow_time)
    reach = torch.full((3, 2, 2), 6.0)
    reach[:, 1, 0] = 6 * (1 + (0.6 - t) / 0.6).clamp(1, 2)
    assert (t < 0.6).any()
    assert_close_rms(network(x, t, y), model(x, t, y, reach=reach))
    for i in range(3):  # a sample does not see the times of others
        one = slice(i, i + 1)
        assert_close_rms(network(x, t, y)[one], network(x[one], t[one], y[one]))
    same = Resolution((8, 8), (8, 8)).network(model, {"reach": SCHEDULE}, FlowMatching().flow_time)
    assert same(x, t, y).equal(model(x, t, y))


def test_times_are_those_of_the_process():
    model, seen = build("flowdcn"), []
    resolution, given = Resolution((16, 16), (8, 8)), {"reach": SCHEDULE}

    def spy(*_, reach):
        seen.append(reach[:, 1, 0].tolist())

    step, y = torch.tensor([999.0, 699.0, 99.0]), torch.zeros(3, dtype=torch.int64)
    resolution.network(model, given, DDPM().flow_time, spy)(None, step, y)
    assert seen[-1] == pytest.approx([12.0, 9.0, 6.0])
    t = torch.tensor([[0.0, 0.9], [0.3, 0.0], [0.9, 0.1]])  # of a coarse and a fine scale
    resolution.network(model, given, MultiscaleFlow().flow_time, spy)(None, t, y, None)
    assert seen[-1] == pytest.approx([12.0, 9.0, 6.0])


@pytest.mark.parametrize("process", [FlowMatching(), DDPM("small"), MultiscaleFlow()])
def test_a_loss_takes_the_network_of_a_size(process):
    model = build_pyramid() if isinstance(process, MultiscaleFlow) else build("flowdcn")
    depth = len(getattr(model, "backbone", model).blocks)
    given = {"reach": ReachSchedule(blocks=(0, depth - 1), times=(0.0, 1.0), form="constant")}
    data, y = torch.rand(4, 3, 8, 12) * 2 - 1, torch.tensor([0, 1, 2, 5])
    draws = process.draw(tuple(data.shape), torch.Generator().manual_seed(0))
    plain = process.loss_at(model, data, y, draws)
    for trained, same in (((8, 12), True), ((8, 6), False)):
        network = Resolution((8, 12), trained).network(model, given, process.flow_time)
        assert process.loss_at(network, data, y, draws).equal(plain) == same
    fixed = process.loss_at(
        lambda *x: model(*x, reach=(12.0, 6.0)), data, y, draws
    )  # a constant form is one reach for all times
    assert_close_rms(process.loss_at(network, data, y, draws), fixed)


@pytest.mark.slow
def test_one_graph_serves_all_schedules_times_and_sizes(unchecked):
    model = perturb(create_model("flowdcn", **TINY | {"depth": 3})).requires_grad_(False)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    clock = FlowMatching().flow_time
    schedules = [
        SCHEDULE,
        ReachSchedule(blocks=(0, 2)),
        ReachSchedule(peak=3.0, blocks=(0, 1), times=(0.1, 1.0)),
        ReachSchedule(form="constant", blocks=(2, 2)),
    ]
    # No two sizes of the first call are the same: they would be tied.
    x, t, y = inputs(model, 7, (4, 6))
    Resolution((8, 12), (6, 8)).network(model, {"reach": SCHEDULE}, clock, compiled)(x, t, y)
    with torch.compiler.set_stance("fail_on_recompile"):
        for number, size in enumerate([(5, 3), (4, 4), (3, 8), (9, 2)]):
            given = {"reach": schedules[number]}
            x, t, y = inputs(model, 2 + number % 2, size)
            resolution = Resolution((2 * size[0], 2 * size[1]), (6, 8))
            wanted = resolution.network(model, given, clock)(x, t, y)
            assert_close_rms(resolution.network(model, given, clock, compiled)(x, t, y), wanted)
            assert not wanted.equal(model(x, t, y))


def test_what_it_tells_is_json_and_holds_the_sizes():
    resolution = Resolution((16, 8), (8, 8))
    described = resolution.describe({"reach": SCHEDULE, "position_scaling": "pi"})
    assert described == {
        "reach": {
            "peak": 2.0,
            "times": [0.0, 0.6],
            "blocks": [1, 1],
            "form": "linear",
            "ratio": [1.0, 2.0],
        },
        "position_scaling": {"kind": "pi", "trained": [8, 8]},
    }
    more = {"reach": torch.tensor([3.0, 4.0]), "position_scaling": PositionScaling("ei", 4, 4)}
    assert resolution.describe(more) == {
        "reach": [3.0, 4.0],
        "position_scaling": {"kind": "ei", "rows": 4, "columns": 4},
    }
    assert resolution.describe({"reach": 4.0}) == {"reach": 4.0}
    assert json.loads(json.dumps(described)) == described


def test_what_does_not_fit_is_refused_before_the_first_call():
    larger = Resolution((16, 16), (8, 8))
    with pytest.raises(InputError, match="more than 9 blocks"):
        larger.check(build("flowdcn"), {"reach": ReachSchedule()})
    with pytest.raises(InputError, match='for mix="dico" has none'):
        larger.check(build("flowdcn-dico"), {"reach": SCHEDULE})
    with pytest.raises(InputError, match="pi or ei for sincos positions, got 'yarn'"):
        larger.check(build("sit"), {"position_scaling": "yarn"})
    with pytest.raises(InputError, match="at least 1 x 1 cells, got 0 x 4"):
        Resolution((8, 8), (1, 8)).check(build("sit"), {"position_scaling": "pi"})
    larger.check(build("sit"), {"position_scaling": "pi"})
    larger.check(build_pyramid(), {"reach": ReachSchedule(blocks=(0, 0))})
    assert set(POSITION_SCALINGS) == {"pi", "ei", "ntk", "yarn"}
