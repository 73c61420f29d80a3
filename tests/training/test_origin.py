"""Beginning from trained weights: which are taken, what they predict, and what does not fit."""

from __future__ import annotations

import json
import logging
import re
import shutil

import pytest
import torch

from convflow.cli.main import main
from convflow.models.pyramid import Pyramid
from convflow.models.zoo import load_model
from convflow.recipes import create_config
from convflow.training import checkpoint, launch
from convflow.training.checkpoint import find_weights
from convflow.training.origin import begin_from
from convflow.training.overrides import override
from convflow.types import InputError
from tests.cases import build, build_pyramid
from tests.tolerance import assert_close_rms

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def words():
    given = "--batch-size 4 --images 8 --monitor.num-samples 2 --monitor.tensorboard false "
    given += "--sampling.steps 2 --optim.schedule constant --optim.warmup-images 0 --device cpu "
    network = "--model.width 16 --model.depth 1 --model.num-groups 2 --model.patch-size 1"
    return lambda more="": [*given.split(), *network.split(), *more.split()]


@pytest.fixture(scope="module")
def settings(words):
    return lambda more="": override(create_config("digits.flowdcn"), words(more))


@pytest.fixture(scope="module")
def plain(settings, tmp_path_factory):
    """A finished run on one scale, its averaged weights far from zero; do not write to it."""
    run = tmp_path_factory.mktemp("plain") / "run"
    assert launch.train(settings("--optim.lr 0.02 --ema.decay 0.5 --sampling.solver heun"), run)
    return run


def begun(config, run):
    """The network and the average of a run that has not made a step."""
    trainer = launch.build_trainer(config, run, CPU)[0]
    return trainer.model.eval(), trainer.ema.model


def asked(channels=1, count=3):
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randn(count, channels, 4, 4, generator=generator)
    return coarse, torch.rand(count, generator=generator), torch.tensor([0, 4, 10])[:count]


def as_before(trained, x, t, y):
    """What a network on one scale says of a coarse picture: grown, asked, and made small."""
    grown = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
    return torch.nn.functional.avg_pool2d(trained(grown, t, y), 2)


@pytest.mark.parametrize("kind", ["run", "checkpoint", "model folder"])
def test_the_same_network_begins_with_the_averaged_weights(kind, plain, settings, tmp_path):
    folder = checkpoint.folder_of(plain, 2)
    place = {"run": plain, "checkpoint": folder, "model folder": folder / "ema"}[kind]
    trained, raw = load_model(folder / "ema"), load_model(folder / "raw")
    model, average = begun(settings(f"--init {place}"), tmp_path)
    x, t, y = torch.randn(3, 1, 8, 8), *asked()[1:]
    assert model(x, t, y).equal(trained(x, t, y))
    assert average(x, t, y).equal(trained(x, t, y))
    assert trained(x, t, y).any()
    assert not raw(x, t, y).equal(trained(x, t, y))


@pytest.mark.parametrize("more", ["", "--model.stage-embedding true"])
def test_the_first_stage_of_scales_predicts_what_the_network_did(more, plain, settings, tmp_path):
    config = settings(f"--process dfm --init {plain} {more}")
    before = torch.get_rng_state()
    model, average = begun(config, tmp_path)
    assert torch.get_rng_state().equal(before)
    assert isinstance(model, Pyramid)
    assert model.settings["coarse"] == "upsample"
    trained = load_model(find_weights(plain, "ema"))
    x, t, y = asked()
    expected = as_before(trained, x, t, y)
    assert expected.any()
    assert_close_rms(model([x], t[:, None], y)[0], expected)
    assert_close_rms(average([x], t[:, None], y)[0], expected)
    again = begun(config, tmp_path)[0].state_dict()
    assert all(tensor.equal(again[name]) for name, tensor in model.state_dict().items())


def test_a_run_of_scales_goes_on_without_the_folder_it_began_from(
    plain, settings, words, tmp_path, caplog
):
    """By the same words, and by --resume; the weights do not go back to where they began."""
    source, run = tmp_path / "source", tmp_path / "run"
    shutil.copytree(plain, source)
    given = f"--process dfm --init {source} --images"
    with caplog.at_level(logging.INFO, "convflow"):
        assert launch.train(settings(f"{given} 8"), run)
    assert f"beginning from the averaged weights of {source}" in caplog.text
    stored = json.loads((run / "config.json").read_text())
    assert (stored["init"], stored["model"]["coarse"]) == (str(source), "upsample")
    straight = tmp_path / "straight"
    assert launch.train(settings(f"{given} 16"), straight)
    shutil.rmtree(source)
    assert launch.train(settings(f"{given} 12"), run)
    assert main(["train", "--resume", str(run), "--images", "16"]) == 0
    for name in ("raw", "ema"):
        one, other = (checkpoint.folder_of(r, 4) / name for r in (run, straight))
        assert (one / "model.safetensors").read_bytes() == (
            other / "model.safetensors"
        ).read_bytes()
    with pytest.raises(InputError, match=r"other settings: init \("):
        launch.train(settings(f"--process dfm --init {plain} --images 16"), run)


@pytest.mark.parametrize("coarse", ["patch", "upsample"])
def test_scales_begin_from_scales(coarse, settings, tmp_path):
    """However their coarsest scale enters, the new ones follow."""
    run = tmp_path / "run"
    assert launch.train(settings(f"--process dfm --model.coarse {coarse} --optim.lr 0.02"), run)
    trained = load_model(find_weights(run, "ema"))
    model, _ = begun(settings(f"--process dfm --init {run}"), tmp_path / "new")
    assert model.settings == trained.settings
    x, t, y = asked()
    assert model([x], t[:, None], y)[0].equal(trained([x], t[:, None], y)[0])
    with pytest.raises(InputError, match=r"the process kind flow, got .* with dfm; give others"):
        begun(settings(f"--init {run}"), tmp_path / "new")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--model.width 32", "with width 16, here 32; change the settings"),
        ("--data.channels 3", "with in_channels 1, here 3; "),
        ("--process dfm --model.width 32", "with width 16, here 32; change the settings"),
        ("--process dfm --model.coarse patch", 'coarse="upsample" to begin from a network on one'),
        ("--process ddpm", "trained with the process kind ddpm, got"),
        ("--process.prediction noise", "--process.prediction velocity"),
    ],
)
def test_what_differs_is_named_before_anything_is_written(more, message, plain, settings, tmp_path):
    with pytest.raises(InputError, match=re.escape(message)):
        launch.train(settings(f"--init {plain} {more}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_networks_and_classes_are_named():
    with pytest.raises(InputError, match="family flowdcn, here dit"):
        begin_from(build("dit"), build("flowdcn"), "there")
    with pytest.raises(InputError, match="of one scale, got there, a pyramid; add --process dfm"):
        begin_from(build("flowdcn"), build_pyramid(), "there")
    with pytest.raises(InputError, match=r"got there with num_classes 5, here 0; change"):
        begin_from(build("flowdcn-no-classes"), build("flowdcn"), "there")
    with pytest.raises(InputError, match=r"backbone\.in_channels 3, here 1"):
        begin_from(build_pyramid(channels=1), build_pyramid(), "there")


def test_a_wrong_folder_is_one_line(words, tmp_path, capsys):
    run = str(tmp_path / "run")
    given = ["--init", str(tmp_path / "nothing/here"), "--run", run]
    assert main(["train", "digits.flowdcn", *words(), *given]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --init: found nothing at ")
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()
