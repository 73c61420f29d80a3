"""A model of scales through the whole line: trained, resumed, sampled, watched, scored, told of."""

from __future__ import annotations

import itertools
import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from convflow.bundle.config import SamplingConfig, read_pipeline
from convflow.cli.main import main
from convflow.codecs import PixelCodec
from convflow.models import zoo
from convflow.models.zoo import create_model
from convflow.nn.reach import ReachSchedule
from convflow.pipeline import Pipeline
from convflow.processes.multiscale import MultiscaleFlow
from convflow.processes.process import create_process
from convflow.recipes import create_config, list_recipes
from convflow.samplers.ode import SCHEMES
from convflow.samplers.solvers import create_solver
from convflow.training import build as training
from convflow.training import checkpoint, launch
from convflow.training.overrides import override
from convflow.training.trainer import Trainer
from convflow.types import InputError
from tests.cases import build, build_pyramid
from tests.tolerance import assert_close_rms

TINY = (
    "--process dfm --batch-size 4 --monitor.num-samples 2 --monitor.tensorboard false "
    "--sampling.steps 4 --sampling.solver ab2 --model.width 16 --model.depth 1 "
    "--model.num-groups 2 --model.patch-size 1 --optim.schedule constant --device cpu"
).split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of three standardised Haar scales; read it, do not write to it."""
    folder = tmp_path_factory.mktemp("dfm") / "run"
    words = "--process.factors 2,2 --process.decomposition haar --process.standardize true"
    train = ["train", "digits.flowdcn", "--run", str(folder), *TINY, *words.split()]
    assert main([*train, "--images", "12"]) == 0
    return folder


def settings(words="", recipe="digits.flowdcn"):
    return override(create_config(recipe), [*TINY, *words.split()])


def network(config, classes):
    return training.build_network(config, classes, PixelCodec(), training.open_process(config))


def pipe_of(factors=(2,), **more):
    process = create_process("dfm", factors=factors, **more)
    sampling = SamplingConfig(create_solver("euler", steps=4), 1.5)
    model = build_pyramid(factors=factors)
    return Pipeline(model, PixelCodec(), (8, 16), sampling=sampling, process=process)


def test_a_run_keeps_everything_that_sampling_needs(run):
    assert len(list((run / "samples").glob("*.png"))) == 2
    folder = checkpoint.folder_of(run, 3)
    process = read_pipeline(json.loads((folder / "ema/pipeline.json").read_text())).process
    assert (process.kind, process.factors, process.decomposition) == ("dfm", (2, 2), "haar")
    assert len(process.deviations) == 3
    assert all(0.05 < deviation < 1 for deviation in process.deviations)
    assert launch.read_run_config(run).process == process
    model = zoo.load_model(folder / "ema")
    assert model.settings["factors"] == [2, 2]
    assert model.settings["backbone"]["family"] == "flowdcn"
    assert model.settings["backbone"]["width"] == 16


@pytest.mark.parametrize(
    "words",
    [pytest.param("", marks=pytest.mark.slow), "--process.standardize true --process.factors 2,2"],
)
def test_a_longer_run_goes_on_bit_for_bit(tmp_path, words):
    for name, lengths in (("parts", (8, 20)), ("straight", (20,))):
        for images in lengths:
            assert launch.train(settings(f"{words} --images {images}"), tmp_path / name)
    for name in ("raw/model.safetensors", "ema/model.safetensors", "optimizer.safetensors"):
        one, other = (checkpoint.folder_of(tmp_path / r, 5) / name for r in ("parts", "straight"))
        assert one.read_bytes() == other.read_bytes()
    lines = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("parts", "straight")]
    assert lines[0] == lines[1]


def test_scales_and_their_deviations_are_said_at_the_start(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "convflow"):
        launch.train(settings("--images 4"), tmp_path / "plain")
        assert "scales of laplacian: 4x4,8x8\n" in caplog.text
        words = "--images 4 --process.factors 2,2 --process.deviations 1,0.5,0.25"
        launch.train(settings(words), tmp_path / "divided")
    assert "laplacian: 2x2,4x4,8x8, divided by deviations 1, 0.5, 0.25\n" in caplog.text


@pytest.mark.parametrize(
    ("model", "process", "message"),
    [
        (build_pyramid(), create_process(), "expected a network of one scale, as the process flow"),
        (
            build("flowdcn"),
            create_process("dfm"),
            r"a network of scales with the factors \[2\], .* got one of one scale",
        ),
        (build_pyramid(), create_process("dfm", factors=(2, 2)), r"factors \[2, 2\],.* \[2\];"),
    ],
)
def test_a_network_and_a_process_that_do_not_fit_are_refused(model, process, message):
    with pytest.raises(InputError, match=message):
        Pipeline(model, PixelCodec(), (8, 8), process=process)


def test_a_weaker_model_of_scales_is_refused():
    pipe = Pipeline(build("flowdcn"), PixelCodec(), (4, 4))
    with pytest.raises(InputError, match=r"a weaker model of one scale, .* got a pyramid"):
        pipe.samples(guidance=2.0, guidance_kind="auto", weaker=build_pyramid())
    with pytest.raises(InputError, match="a weaker model with the process kind flow"):
        pipe.samples(guidance=2.0, guidance_kind="auto", weaker=pipe_of())


def test_a_cosine_model_takes_sizes_of_whole_blocks():
    pipe = pipe_of(decomposition="dct")
    assert pipe.samples(size=(16, 24)).size == (16, 24)
    with pytest.raises(InputError, match=r"multiples of 8, got 36x36; .* that works is 32x32"):
        pipe.samples(size=36)


@pytest.mark.parametrize(("stop", "calls"), [(1, 22), (2, 26), (3, 30)])
def test_an_early_stop_makes_the_calls_of_its_stages_alone(stop, calls):
    """Of 30 steps, 22 of the coarsest scale; guidance is in the same call."""
    pipe, shown = pipe_of((2, 2)), []
    samples = pipe.samples(steps=30, guidance=2.0, stop_scale=stop)
    pipe.model.register_forward_pre_hook(lambda _, given: shown.append(len(given[0])))
    samples.read([0, 1])
    ends = samples.solver.stage_ends(samples.process)
    assert (len(shown), samples.describe()["evaluations"], ends[-1]) == (calls,) * 3
    assert shown == [1] * 22 + [2] * min(calls - 22, 4) + [3] * max(calls - 26, 0)


def test_going_on_keeps_the_deviations_of_the_start(tmp_path, monkeypatch):
    words = "--process.standardize true --images"
    assert launch.train(settings(f"{words} 4"), tmp_path)
    known = launch.read_run_config(tmp_path).process.deviations
    monkeypatch.setattr(MultiscaleFlow, "measure", lambda *_: pytest.fail("measured again"))
    assert launch.train(settings(f"{words} 8"), tmp_path)
    assert launch.train(override(launch.read_run_config(tmp_path), ["--images", "12"]), tmp_path)
    assert launch.read_run_config(tmp_path).process.deviations == known
    with pytest.raises(InputError, match=r"other settings: process\.deviations"):
        launch.train(settings(f"{words} 12 --process.deviations 1,1"), tmp_path)


OF_LABELS = [name for name in list_recipes() if create_config(name).text.kind == "none"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", OF_LABELS)
def test_every_recipe_becomes_one_of_scales(recipe):
    config = override(create_config(recipe), ["--process", "dfm"])
    process = config.process
    config.sampling.check(process)
    known = create_config(recipe).sampling
    if known.solver.kind in SCHEMES:
        assert config.sampling.solver == known.solver
    else:
        ends = config.sampling.solver.stage_ends(process)
        assert (config.sampling.solver.kind, ends) == ("euler", (30, 40))
    with torch.device("meta"):
        model = network(config, 3)
    assert (model.family, model.num_classes) == ("pyramid", 3)
    assert model.settings["factors"] == [2]


def test_the_network_of_a_published_size_and_settings_of_the_pyramid():
    words = ["--model.name", "dit-s/4", "--model.stage-embedding", "true", "--process", "dfm"]
    with torch.device("meta"):
        seen = network(override(create_config("digits.flowdcn"), words), 7).settings
    assert (seen["family"], seen["stage_embedding"], seen["factors"]) == ("pyramid", True, [2])
    row = {"family": "dit", **zoo.SIZES["dit-s/4"].settings}
    assert seen["backbone"].items() >= (row | {"num_classes": 7, "in_channels": 1}).items()
    with pytest.raises(InputError, match=r"--model\.factors: expected the factors of the process"):
        network(settings("--model.factors 2"), 7)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--process.factors 2,x", "--process.factors: expected several numbers such as 2,2, got"),
        (
            "--process.factors 2,1",
            "--process.factors: expected a whole number of at least 2, got '2,1'",
        ),
        ("--process.probabilities 0.5,0.4", "probabilities that sum to 1"),
        ("--process.factors 3", r"that 3 divides, for scales of laplacian with the factors \[3\]"),
        ("--process.decomposition dct --data.size 12x16", r"that 8 divides.* nearest .* is 16x16"),
        ("--process.factors 2 --model.patch-size 8 --data.size 12x16", "multiples of 8, got 12x16"),
        ("--process.schedule vp", "dfm has no schedule"),
        ("--sampling.steps 1", "at least 2 steps"),
        ("--sampling.solver euler-maruyama", "expected a solver of fixed cost"),
        ("--sampling.guidance-kind cfg-zero", "expected the solver euler .* got ab2"),
        ("--process flow --process.standardize true", "flow has no standardize"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_written(words, message, tmp_path):
    with pytest.raises(InputError, match=message):
        launch.train(settings(words), tmp_path / "run")
    assert not (tmp_path / "run/config.json").exists()


def test_factors_that_fit_no_picture_are_refused_before_a_network_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "build_network", lambda *_: pytest.fail("built"))
    with pytest.raises(InputError, match=r"10000 divides, .* factors \[10000\], got 8x8"):
        launch.train(settings("--process.factors 10000"), tmp_path / "run")


def test_sizes_by_ratio_are_those_of_whole_blocks(tmp_path):
    words = "--data.buckets 3 --data.size 32x32 --process.decomposition dct"
    trainer = training.build_trainer(settings(words), tmp_path, torch.device("cpu"))[0]
    sizes = trainer.order.buckets.sizes
    assert len(sizes) == 3
    assert all(side % 8 == 0 for size in sizes for side in size)


def test_a_picture_depends_on_its_number_alone():
    samples = pipe_of((2, 2)).samples(solver="ab2", steps=8)
    together = samples.read([3, 5]).float()
    alone = torch.cat([samples.read([i]) for i in (3, 5)]).float()
    assert (together - alone).abs().max() <= 1
    assert (together[0] - together[1]).abs().max() > 10
    assert together.shape == (2, 3, 8, 16)


@pytest.mark.parametrize(
    "more", [{"interval": (0.0, 0.5)}, {"channels_guided": 1}, {"guidance_kind": "cfg-zero"}]
)
def test_guidance_changes_pictures(more):
    pipe = pipe_of()
    plain = pipe.samples(guidance=1.0).read([0, 1])
    full = pipe.samples(guidance=4.0).read([0, 1])
    some = pipe.samples(guidance=4.0, **more).read([0, 1])
    assert not some.equal(plain)
    assert not some.equal(full)


def test_an_early_stop_has_its_own_size_and_is_told():
    pipe = pipe_of((2, 2))
    samples = pipe.samples(steps=8, stop_scale=2, thresholds=(0.7,))
    assert samples.read([0]).shape == (1, 3, 4, 8)
    assert samples.size == (4, 8)
    described = json.loads(json.dumps(samples.describe()))
    # Of 8 steps 2 are for the later two scales, and the last of them is not reached.
    assert (described["steps"], described["stage_steps"], described["stop_scale"]) == (7, [6, 1], 2)
    assert (described["thresholds"], described["evaluations"], described["size"]) == (
        [0.7],
        7,
        [4, 8],
    )
    first = pipe.samples(steps=6, stage_steps=(4, 1, 1), stop_scale=1).read([0, 1])
    again = pipe.samples(stage_steps=(4, 3, 2), stop_scale=1).read([0, 1])
    assert first.equal(again)


def test_a_description_of_scales_changes_with_their_settings():
    pipe = pipe_of()
    plain = pipe.samples(steps=40).describe()
    assert (plain["stage_steps"], plain["thresholds"]) == ([30, 10], [0.9])
    for more in ({"stage_steps": (32, 8)}, {"thresholds": (0.7,)}, {"solver": "heun"}):
        assert pipe.samples(steps=40, **more).describe() != plain


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"solver": "euler-maruyama"}, "expected a solver of fixed cost .* got euler-maruyama"),
        ({"solver": "dopri5"}, "expected a solver of fixed cost"),
        ({"solver": "ddim"}, "expected a solver of fixed cost"),
        ({"shift": 2.0}, "equal steps in each stage of the process dfm, got shift 2.0"),
        ({"steps": 1}, "at least 2 steps, one for each scale, got 1"),
        ({"stage_steps": (3, 2, 1)}, r"expected 2 stage-steps for 2 scales, got \[3, 2, 1\]"),
        ({"stage_steps": (3, 2), "steps": 6}, r"that sum up to 6 steps, got \[3, 2\]"),
        ({"thresholds": (0.9, 0.9)}, "expected 1 threshold for 2 scales"),
        ({"thresholds": (1.5,)}, "thresholds: expected a number of at most 1"),
        ({"stop_scale": 3}, "a stop-scale from 1 to 2, got 3"),
        ({"thresholds": 0.9}, r"thresholds: expected several numbers such as 2,2, got"),
        ({"guidance_kind": "auto", "weaker": "model"}, "expected the guidance cfg or cfg-zero"),
        ({"size": (8, 9)}, "multiples of|that 2 divides"),
        ({"guidance_kind": "cfg-zero", "solver": "heun"}, "expected the solver euler .*, got heun"),
    ],
)
def test_sampling_settings_that_do_not_fit_are_refused(more, message):
    pipe = pipe_of()
    if "weaker" in more:
        more = more | {"weaker": pipe.model}
    with pytest.raises(InputError, match=message):
        pipe.samples(**more)


def test_reach_is_that_of_the_network_inside():
    pipe = pipe_of()
    base = pipe.samples().read([0])
    assert not pipe.samples(reach=1.0).read([0]).equal(base)
    dico = {"family": "dico", "in_channels": 3, "num_classes": 5, "width": 8}
    model = create_model("pyramid", backbone=dico | {"depths": [1, 1, 1, 1, 1]}, factors=[2])
    other = Pipeline(model, PixelCodec(), (16, 16), process=create_process("dfm"))
    with pytest.raises(InputError, match=r"has no reach, got 3\.0; leave it out"):
        other.samples(reach=3.0)


def test_the_reach_follows_the_time_of_the_coarsest_scale(monkeypatch):
    """On whole images, even where a run stops at a smaller scale; a shift has no place."""
    pipe, seen = pipe_of(), []
    trunk = pipe.model.backbone.trunk

    def spy(features, c, reach=None):
        seen.append(reach.tolist())
        return trunk(features, c, reach)

    monkeypatch.setattr(pipe.model.backbone, "trunk", spy)
    height, width = pipe.size
    schedule = ReachSchedule(blocks=(0, 0))
    given = {"size": (height, 2 * width), "reach": schedule, "guidance": 1.0}
    pipe.samples(**given, stage_steps=(3, 2)).read([0])
    # The coarsest scale is at 0, 0.3, 0.6; then, while the next begins, at 0.9 and 0.95.
    expected = torch.tensor([[x, 6.0] for x in (12.0, 9.0, 6.0, 6.0, 6.0)])
    assert_close_rms(torch.tensor(seen)[:, 0, 0], expected)
    seen.clear()
    pipe.samples(**given, stage_steps=(3, 2), stop_scale=1).read([0])
    assert seen[0] == [[[12.0, 6.0]]]
    with pytest.raises(InputError, match="another process than dfm, for the shift auto"):
        pipe.samples(shift="auto")


def test_a_process_or_solver_leaves_behind_the_stages_of_the_stored():
    pipe = pipe_of((2, 2))
    stages = {"stage_steps": (5, 2, 1), "thresholds": (0.8, 0.7)}
    pipe.sampling = SamplingConfig(create_solver(steps=8, **stages, stop_scale=2), 1.5)
    described = pipe.samples().describe()
    assert (described["stage_steps"], described["thresholds"], described["size"]) == (
        [5, 2],
        [0.8],
        [4, 8],
    )
    assert pipe.samples(steps=12, stop_scale=3).describe()["stage_steps"] == [9, 2, 1]
    plain = Pipeline(build("flowdcn"), PixelCodec(), (4, 4), sampling=pipe.sampling)
    assert plain.samples().describe()["steps"] == 8


def test_cfg_zero_stands_still_early_in_each_scale():
    pipe, seen = pipe_of(), []
    samples = pipe.samples(guidance=4.0, guidance_kind="cfg-zero", stage_steps=(30, 30))
    samples.read([0], watch=lambda step, of, x: seen.append(x))
    still = [bool(a.equal(b)) for a, b in itertools.pairwise(seen)]
    assert len(seen) == 60
    assert still[0]  # t = 0.03: the second step of the first scale
    assert not any(still[1:])  # in the next stage the first scale moves on


def test_latents_of_scales(tmp_path, autoencoder):
    """Images of 64x32 are 8x4 in latents, with 4x2 below; a stop there gives 32x16 pixels."""
    for i in range(4):
        noise = np.random.default_rng(i).integers(0, 256, (64, 32, 3), dtype=np.uint8)
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(noise).save(tmp_path / f"pictures/{i}.png")
    words = f"--codec latent --codec.autoencoder {autoencoder} --data {tmp_path / 'pictures'} "
    words += "--data.size 64x32 --data.channels 3 --process.standardize true --images 4"
    run = tmp_path / "run"
    assert launch.train(settings(words), run)
    pipe = Pipeline.from_pretrained(run, device="cpu")
    assert pipe.model.in_channels == 4
    assert pipe.samples().read([0]).shape == (1, 3, 64, 32)
    stopped = pipe.samples(stop_scale=1)
    assert (stopped.size, stopped.shape) == ((32, 16), (4, 8, 4))
    assert stopped.read([0]).shape == (1, 3, 32, 16)
    assert main(["info", str(run)]) == 0
    with pytest.raises(InputError, match="multiples of 16"):
        pipe.samples(size=(64, 40))


@pytest.mark.parametrize(
    "more", [{"stage_steps": (3, 1)}, {"thresholds": (0.9,)}, {"stop_scale": 1}]
)
def test_stages_need_a_model_of_scales(more):
    pipe = Pipeline(build("flowdcn"), PixelCodec(), (4, 4))
    name = next(iter(more)).replace("_", "-")
    with pytest.raises(InputError, match=f"trained with the process dfm for {name}, got one"):
        pipe.samples(**more)


def test_a_share_sees_its_rows_of_the_same_draws(tmp_path, monkeypatch):
    trainer = training.build_trainer(settings("--batch-size 8"), tmp_path, torch.device("cpu"))[0]
    shape = (8, *trainer.shape)
    _, whole = trainer._draw(torch.zeros(8, dtype=torch.int64), shape)
    for rank in range(3):
        monkeypatch.setattr(Trainer, "share", lambda self, rank=rank: slice(rank, None, 3))
        _, mine = trainer._draw(torch.zeros(len(range(rank, 8, 3)), dtype=torch.int64), shape)
        pairs = zip(mine["process"], whole["process"], strict=True)
        assert all(part.equal(everything[rank::3]) for part, everything in pairs)


def test_previews_on_the_command_line(run, tmp_path, capsys):
    out, folder = tmp_path / "out", tmp_path / "strips"
    words = "--num 3 --batch-size 2 --stage-steps 5,2,3 --labels 4,7 --preview-every 3 --zoom 1"
    given = ["sample", str(run), "--single", "--out", str(out), "--previews", str(folder)]
    assert main([*given, *words.split()]) == 0
    # Every third step, the ends of the stages at 5, 7 and 10.
    assert "after steps 3, 5, 6, 7, 9, 10: strips in" in capsys.readouterr().out
    names = sorted(path.name for path in out.iterdir())
    assert sorted(path.name for path in folder.iterdir()) == names
    for name in names:
        strip, picture = (np.asarray(Image.open(place / name)) for place in (folder, out))
        assert strip.shape == (8 + 4, 6 * (8 + 2) + 2)
        assert np.array_equal(strip[2:-2, -10:-2], picture)
        assert np.array_equal(strip[2:6:4, 2:10:4], strip[5:6, 2:10:4])  # 2x2 cells, made large


def test_a_stopped_run_on_the_command_line(run, tmp_path, capsys):
    out = tmp_path / "small.png"
    assert main(["sample", str(run), "--out", str(out), "--num", "2", "--stop-scale", "2"]) == 0
    assert "2 images of 4x4" in capsys.readouterr().out


def test_info_tells_the_scales(run, capsys):
    assert main(["info", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scales"]["sizes"] == ["2x2", "4x4", "8x8"]
    assert found["scales"]["decomposition"] == "haar"
    assert found["scales"]["sampling"]["stage_steps"] == [2, 1, 1]
    assert main(["info", str(run)]) == 0
    assert "2x2, 4x4, 8x8" in capsys.readouterr().out


@pytest.mark.slow
def test_scores_of_a_model_of_scales(run, tmp_path):
    detector = "tests/extending/detector.py:load"
    card = tmp_path / "card.json"
    words = "--reference digits --num 8 --batch-size 4 --thresholds 0.8 --device cpu"
    given = ["evaluate", str(run), "--detector", detector, "--out", str(card), *words.split()]
    assert main(given) == 0
    described = card.read_text()
    assert json.loads(described)["model"]["family"] == "pyramid"
    assert json.loads(described)["model"]["backbone"] == "flowdcn"
    assert '"stage_steps"' in described
    assert '"thresholds"' in described


def test_a_search_for_a_solver_is_refused(run, capsys):
    assert main(["bench", "solvers", str(run), "--steps", "3", "--device", "cpu"]) == 2
    assert "got dfm with one for each scale" in capsys.readouterr().err
