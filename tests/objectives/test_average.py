"""Average velocities as an objective: resumed, begun from a flow, sampled."""

from __future__ import annotations

import pytest
import torch

from benchmarks.reliability import kills
from convflow.bench.models import perturb
from convflow.cli.main import main
from convflow.models.zoo import create_model, load_model
from convflow.objectives.average import AverageVelocity
from convflow.objectives.objective import Inputs
from convflow.objectives.table import create_objectives
from convflow.pipeline import Pipeline
from convflow.processes.meanflow import MeanFlow
from convflow.training import checkpoint
from convflow.types import InputError
from tests.cases import TINY
from tests.objectives.encoder import BACKBONES

WORDS = (
    "--process meanflow --process.guidance 2 --process.mixture 0.5 --device cpu --precision float32"
).split()


def test_guidance_needs_classes():
    network = create_model("flowdcn", **TINY | {"num_classes": 0}, second_time=True)
    with pytest.raises(InputError, match="guidance: expected 1 for data without classes"):
        create_objectives({}, network, MeanFlow(guidance=2))
    with pytest.raises(InputError, match=r"guidance-max: expected 1 for data .*, got 4\.0"):
        create_objectives({}, network, MeanFlow(guidance_max=4.0))
    (own,) = create_objectives({}, network, MeanFlow()).values()
    assert type(own.objective) is AverageVelocity


@pytest.mark.parametrize("family", BACKBONES)
def test_every_network_learns_velocities_beside_averages_at_scales_it_is_told(family):
    process = MeanFlow(velocity_head=True, guidance_max=8.0, tangent="own", apart=1.0)
    given = process.adapt({"name": family, "in_channels": 3, "num_classes": 3})
    given |= BACKBONES[family] | {"learned_variance": process.learned_variance}
    network = create_model(given.pop("name"), **given)
    x, t, y = torch.randn(4, 3, 16, 16), torch.rand(4, 2).sort(1)[0], torch.tensor([0, 1, 2, 3])
    told = [torch.cat([t, torch.full((4, 1), scale)], 1) for scale in (1.0, 7.0)]
    with torch.no_grad():
        assert not network(x, told[0], y).any()
        perturb(network)
        one, other = (network(x, numbers, y) for numbers in told)
    assert one.shape == (4, 6, 16, 16)
    assert (one - other).norm() > 1e-3 * one.norm()
    (own,) = create_objectives({}, network, process).values()
    draws = own.objective.draw((4, 3, 16, 16), torch.Generator().manual_seed(3))
    loss = own.objective.terms(network, Inputs(x, y), draws)["loss"]
    loss.sum().backward()
    assert bool(loss.isfinite().all())
    grads = {name: p.grad for name, p in network.named_parameters()}
    assert all(grad is not None and bool(grad.any()) for n, grad in grads.items() if ".guide." in n)
    assert sum(".guide." in name for name in grads) >= 4
    head = network.parts.head.out.weight.grad
    assert all(bool(part.any()) for part in head.view(-1, 6, head[0].numel()).unbind(1))


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


IMPROVED = [
    *("--process", "meanflow", "--process.guidance-max", "8", "--process.tangent", "own"),
    *("--device", "cpu", "--precision", "float32"),
]


def test_an_improved_run_in_parts_ends_with_the_same_bits_and_is_told_scales(
    train, tmp_path, capsys
):
    head = ("--process.velocity-head", "true")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(whole, *IMPROVED, *head, "--images", "32") == 0
    for images in ("16", "32"):
        assert train(parts, *IMPROVED, *head, "--images", images) == 0
    assert kills.differences(whole, parts) == []
    pipe = Pipeline.from_pretrained(whole, device="cpu")
    perturb(pipe.model)
    plain, told = (pipe(num=2, **more).pixels for more in ({}, {"told_guidance": 8.0}))
    assert not plain.equal(told)
    out = str(tmp_path / "grid.png")
    sample = ["sample", str(whole), "--num", "2", "--device", "cpu", "--out", out]
    assert main([*sample, "--steps", "2", "--told-guidance", "3"]) == 0
    assert main([*sample, "--solver", "heun", "--steps", "2"]) == 0
    assert main([*sample, "--told-guidance", "0.5"]) == 2
    assert "--told-guidance: expected a number of at least 1" in capsys.readouterr().err


def test_an_improved_run_may_begin_from_a_flow_or_from_averages(train, run, tmp_path, capsys):
    flow = tmp_path / "flow"
    assert train(flow, *IMPROVED[6:], "--images", "16") == 0
    still = ("--optim.lr", "1e-30", "--ema.decay", "0", "--images", "8")
    assert train(tmp_path / "twice", *IMPROVED, "--init", str(run)) == 2
    none = ("--process.guidance", "1", "--process.mixture", "0")
    assert " ".join(none) in capsys.readouterr().err
    for origin, step, more in ((flow, 2, ()), (run, 4, none)):
        begun = tmp_path / f"from-{origin.name}"
        assert train(begun, *IMPROVED, *still, *more, "--init", str(origin)) == 0
        old = load_model(checkpoint.folder_of(origin, step) / "ema")
        new = load_model(checkpoint.folder_of(begun, 1) / "ema")
        x = torch.randn(3, new.in_channels, 4 * new.multiple, 4 * new.multiple)
        t, y = torch.rand(3, 2).sort(1)[0], torch.tensor([0, 1, new.num_classes])
        with torch.no_grad():
            found = new(x, torch.cat([t, torch.rand(3, 1) + 1], 1), y)
            torch.testing.assert_close(found, old(x, t if old.second_time else t[:, 0], y))
    head = ("--process.velocity-head", "true", "--init", str(flow))
    assert train(tmp_path / "head", *IMPROVED, *head) == 2
    assert "add --process.velocity-head false" in capsys.readouterr().err


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
