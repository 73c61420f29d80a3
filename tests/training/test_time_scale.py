"""The scale of times: of new runs, of those that begin from weights, and of those that go on."""

import shutil
from dataclasses import replace

import pytest
import torch

from convflow.codecs import PixelCodec
from convflow.models.pyramid import Pyramid
from convflow.models.zoo import load_model
from convflow.nn.embed import TimeEmbedding
from convflow.recipes import create_config
from convflow.training import checkpoint, launch
from convflow.training.build import build_network
from convflow.training.origin import Origin
from convflow.training.overrides import describe_options, override
from convflow.training.time_scale import choose_time_scale
from convflow.types import InputError
from tests.cases import GOLDENS, build

NETWORKS = {
    "flowdcn": "--model.width 64 --model.depth 1 --model.num-groups 2",
    "dico": "--model.width 32 --model.depths 1,1,1,1,1",
    "fcdm": "--model.width 32 --model.depths 1,1,1,1,1",
    "sit": "--model.width 64 --model.depth 1 --model.num-heads 2",
}


def new(family, more=""):
    """The settings of a new run on ten classes."""
    words = f"--model.name {family} {NETWORKS[family]} {more}".split()
    return choose_time_scale(override(create_config("cifar10.flowdcn"), words))


@torch.no_grad()
def spreads(config):
    """Root mean square of what a network's condition varies by over times, and over labels."""
    model, process = build_network(config, 10, PixelCodec(), config.process), config.process
    draws = process.draw((1000, 3, 32, 32), torch.Generator().manual_seed(0))
    pyramid = isinstance(model, Pyramid)
    more = [[None] * model.num_scales] if pyramid else []

    def spread(t, y):
        c = model.condition(t, y, *more)
        levels = c if isinstance(c, tuple) else (c,)
        return torch.cat([level.var(0) for level in levels]).mean().sqrt()

    labels = torch.arange(1000) % 10
    return spread(draws.t, labels * 0), spread(draws.t[:1].expand_as(draws.t), labels)


@pytest.mark.parametrize("process", ["flow", "dfm", "ddpm"])
@pytest.mark.parametrize("family", NETWORKS)
def test_a_new_network_tells_times_apart_at_least_half_as_well_as_labels(family, process):
    config = new(family, f"--process {process}")
    assert config.model["time_scale"] == (1 if process == "ddpm" else 1000)
    times, labels = spreads(config)
    assert times > 0.5 * labels
    if process != "ddpm":  # and as published it does not
        times, labels = spreads(new(family, f"--process {process} --model.time-scale 1"))
        assert times < 0.35 * labels


def test_the_help_shows_the_scale_of_the_process_and_published_recipes_keep_their_time():
    def shown(recipe, words=""):
        config = override(create_config(recipe), words.split())
        return {key: value for key, value, _ in describe_options(config)}["model.time-scale"]

    assert shown("cifar10.flowdcn") == shown("cifar10.sit_dfm") == "1000.0"
    assert shown("cifar10.dit") == shown("cifar10.flowdcn", "--process ddpm") == "1.0"
    assert shown("imagenet.sit_xl") == shown("imagenet.dfm_dit_xl_512") == "1.0"
    assert shown("imagenet.dico_s") == "1.0"
    with pytest.raises(InputError, match="time_scale: expected a number above 0, got"):
        build_network(new("flowdcn", "--model.time-scale 0"), 10, PixelCodec(), new("sit").process)


def test_weights_to_begin_from_bring_their_scale():
    config, model = create_config("cifar10.flowdcn"), build("flowdcn")
    assert choose_time_scale(config, Origin("x", model)).model["time_scale"] == 1
    other = Origin("x", model, same_time=False)  # of a DDPM
    assert choose_time_scale(config, other).model["time_scale"] == 1000
    steps = create_config("cifar10.dit")
    adopted = replace(steps, model=steps.model | {"time_scale": 1.0})  # as of weights
    assert override(adopted, []).model["time_scale"] == 1
    flow = override(adopted, ["--process", "flow"])
    assert choose_time_scale(flow, other).model["time_scale"] == 1000
    kept = override(adopted, "--process flow --model.time-scale 1".split())
    assert choose_time_scale(kept, other).model["time_scale"] == 1
    foreign = override(config, "--model.name tests.extending.network:Net".split())
    assert choose_time_scale(foreign) is foreign


def test_a_run_keeps_its_scale_and_so_does_one_of_an_earlier_version(tiny, tmp_path):
    run, old = tmp_path / "run", tmp_path / "old"
    config = tiny("--images 8 --device cpu")
    assert launch.train(config, run)
    assert launch.train(replace(config, images=16), run)
    assert launch.read_run_config(run).model["time_scale"] == 1000

    shutil.copytree(GOLDENS / "run_0_2_flow", old)
    before = launch.read_run_config(old)
    assert "time_scale" not in before.model

    def later(scale, batches):
        images = before.images + batches * before.batch_size
        model = before.model | {"time_scale": scale}
        return replace(before, images=images, device="cpu", model=model)

    with pytest.raises(InputError, match=r"model.time_scale \(1.0, now 1000.0\)"):
        launch.train(later(1000.0, 1), old)
    assert launch.train(later(1, 1), old)
    assert launch.train(replace(later(1, 2), model=before.model), old)
    assert launch.read_run_config(old).model["time_scale"] == 1


@pytest.mark.parametrize("scale", [0.25, 30.0, 1000.0])
def test_average_velocities_are_told_times_at_any_scale_and_keep_it(scale, tiny, tmp_path):
    words, run = "--process meanflow --device cpu --images", tmp_path / "run"
    assert choose_time_scale(tiny(words + " 8")).model["time_scale"] == 1
    assert launch.train(tiny(f"{words} 8 --model.time-scale {scale}"), run)
    assert launch.train(tiny(f"{words} 16"), run)
    trained = load_model(checkpoint.folder_of(run, 2) / "ema")
    times = [part for part in trained.modules() if isinstance(part, TimeEmbedding)]
    assert [part.scale for part in times] == [scale, scale]  # of the first time, and the span
    other = f"--model.time-scale {scale + 1}"
    with pytest.raises(InputError, match=rf"model.time_scale \({scale}, now {scale + 1}\)"):
        launch.train(tiny(f"{words} 24 {other}"), run)
    with pytest.raises(InputError, match=rf"time_scale {scale}, here .*--model.time-scale {scale}"):
        launch.train(tiny(f"{words} 8 --init {run} {other}"), tmp_path / "begun")
