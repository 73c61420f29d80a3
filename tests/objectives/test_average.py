"""Average velocities as an objective: on two processes, resumed, begun from a flow, sampled."""

from __future__ import annotations

import pytest
import torch

from benchmarks.reliability import kills
from convflow.cli.main import main
from convflow.models.zoo import create_model, load_model
from convflow.objectives.average import AverageVelocity
from convflow.objectives.table import create_objectives
from convflow.pipeline import Pipeline
from convflow.processes.meanflow import MeanFlow
from convflow.training import checkpoint
from convflow.types import InputError
from tests.cases import TINY
from tests.two_processes import start_many

WORDS = (
    "--process meanflow --process.guidance 2 --process.mixture 0.5 --device cpu --precision float32"
).split()


@pytest.mark.parametrize(
    "families", [["flowdcn"], pytest.param(["dico", "fcdm"], marks=pytest.mark.slow)], ids=str
)
def test_two_processes_have_the_gradients_of_one_with_each_engine(families):
    answers = start_many(2, ["-m", "tests.objectives.distributed_average", *families], 100)
    expected = [f"{family} {kind}" for family in families for kind in ("ddp", "fsdp")]
    for code, said, complained in answers:
        assert code == 0, complained
        assert said.splitlines() == expected


def test_guidance_needs_classes():
    network = create_model("flowdcn", **TINY | {"num_classes": 0}, second_time=True)
    with pytest.raises(InputError, match="guidance: expected 1 for data without classes"):
        create_objectives({}, network, MeanFlow(guidance=2))
    (own,) = create_objectives({}, network, MeanFlow()).values()
    assert type(own.objective) is AverageVelocity


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Return a function that trains in a folder with more words."""
    data = kills.make_pictures(tmp_path_factory.mktemp("pictures"))
    words = ["pictures.flowdcn", "--data", str(data), *kills.SETTINGS]
    return lambda run, *more: main(["train", *words, "--run", str(run), *more])


@pytest.fixture(scope="module")
def run(train, tmp_path_factory):
    """A run of four steps at once."""
    run = tmp_path_factory.mktemp("mean") / "run"
    assert train(run, *WORDS, "--images", "32") == 0
    return run


def test_a_run_in_parts_ends_with_the_same_bits_and_is_sampled_in_one_step(
    train, run, tmp_path, capsys
):
    parts = tmp_path / "parts"
    for images in ("16", "32"):
        assert train(parts, *WORDS, "--images", images) == 0
    assert kills.differences(run, parts) == []
    assert (run / "samples").is_dir()
    pipe = Pipeline.from_pretrained(run, device="cpu")
    assert (pipe.sampling.solver.kind, pipe.sampling.solver.num_steps) == ("average", 1)
    assert pipe.sampling.guidance == 1
    calls, forward = [], pipe.model.forward
    pipe.model.forward = lambda *given: calls.append(1) or forward(*given)
    for steps in (None, 2):
        assert pipe(num=2, steps=steps).pixels.shape[0] == 2
    assert len(calls) == 1 + 2
    out = str(tmp_path / "grid.png")
    sample = ["sample", str(run), "--num", "2", "--device", "cpu", "--out", out]
    assert main([*sample, "--solver", "euler", "--steps", "2", "--guidance", "1.5"]) == 0
    assert main([*sample, "--guidance", "2"]) == 2
    assert "is trained into them (--process.guidance)" in capsys.readouterr().err


def test_a_flow_is_where_it_may_begin_and_another_solver_is_not(train, run, tmp_path, capsys):
    flow, begun = tmp_path / "flow", tmp_path / "begun"
    more = ("--device", "cpu", "--precision", "float32", "--images", "16")
    assert train(flow, *more) == 0
    still = ("--optim.lr", "1e-30", "--ema.decay", "0", "--init", str(flow))
    assert train(begun, *WORDS, *still, "--images", "8") == 0
    old, new = (load_model(checkpoint.folder_of(r, n) / "ema") for r, n in ((flow, 2), (begun, 1)))
    size = 4 * new.multiple
    x = torch.randn(3, new.in_channels, size, size)
    t, y = torch.rand(3, 2).sort(1)[0], torch.tensor([0, 1, new.num_classes])
    assert not old.second_time
    assert new.settings["time_scale"] == old.settings["time_scale"]
    with torch.no_grad():
        torch.testing.assert_close(new(x, t, y), old(x, t[:, 0], y))
    for place, words, message in (
        (tmp_path / "back", (*more, "--init", str(run), "--process", "flow"), "process kind flow"),
        (tmp_path / "other", (*WORDS, "--sampling.guidance", "3"), "expected guidance 1"),
    ):
        assert train(place, *words) == 2
        assert message in capsys.readouterr().err
    grid = str(tmp_path / "grid.png")
    assert main(["sample", str(flow), "--solver", "average", "--num", "1", "--out", grid]) == 2
    assert "trained with the process meanflow" in capsys.readouterr().err
