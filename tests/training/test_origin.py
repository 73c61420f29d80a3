"""Beginning from trained weights: which are taken, what they predict, and what does not fit."""

from __future__ import annotations

import json
import logging
import re
import shutil

import pytest
import torch
from PIL import Image

from convflow.bundle.folder import find_weights
from convflow.cli.main import main
from convflow.models.pyramid import Pyramid
from convflow.models.zoo import create_model, load_model
from convflow.nn.embed import LabelEmbedding
from convflow.recipes import create_config
from convflow.training import build as training
from convflow.training import checkpoint, launch
from convflow.training.origin import Origin, begin_from
from convflow.training.overrides import override
from convflow.types import InputError
from tests.cases import MODELS, build, build_pyramid
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
    trainer = training.build_trainer(config, run, CPU)[0]
    return trainer.model.eval(), trainer.ema.model


def asked(channels=1, count=3):
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randn(count, channels, 4, 4, generator=generator)
    return coarse, torch.rand(count, generator=generator), torch.tensor([0, 4, 10])[:count]


def as_before(trained, x, t, y):
    """What a network on one scale says of a coarse image: grown, asked, and made small."""
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


@pytest.mark.slow
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
        ("--model.width 32", "with width 16, here 32; add --model.width 16, or give other weig"),
        ("--data.channels 3", "with in_channels 1, here 3; add --data.channels 1, or give other"),
        ("--process dfm --model.width 32", "with width 16, here 32; add --model.width 16, or"),
        ("--process dfm --model.coarse patch", 'coarse="upsample" to begin from a network on one'),
        ("--process ddpm", "trained with the process kind ddpm, got"),
        ("--process.prediction noise", "--process.prediction velocity"),
    ],
)
def test_what_differs_is_named_before_anything_is_written(more, message, plain, settings, tmp_path):
    with pytest.raises(InputError, match=re.escape(message)):
        launch.train(settings(f"--init {plain} {more}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_networks_are_named_with_what_makes_them_alike():
    def begin(model, trained):
        begin_from(model, Origin("there", trained), "abcde")

    with pytest.raises(InputError, match=r"family flowdcn, here dit; add --model\.name f"):
        begin(build("dit"), build("flowdcn"))
    with pytest.raises(InputError, match="of one scale, got there, a pyramid; add --process dfm"):
        begin(build("flowdcn"), build_pyramid())
    with pytest.raises(
        InputError, match=r"backbone\.in_channels 3, here 1; add --data.channels 3,"
    ):
        begin(build_pyramid(channels=1), build_pyramid())
    with pytest.raises(InputError, match=r"qk_norm False, here True; add --model\.qk-norm false"):
        begin(build("sit-qk-norm"), build("sit"))
    with pytest.raises(InputError, match=r"here True; add --process\.variance small, or"):
        begin(build("dit-learned-variance"), build("dit"))


@pytest.mark.parametrize(
    ("more", "notes"),
    [
        (
            "--data.channels 3",
            [
                "embed_patches.weight: (16, 3, 1, 1) here, (16, 1, 1, 1) in R; drawn anew",
                "project.out.bias: (3,) here, (1,) in R; drawn anew",
                "project.out.weight: (3, 16) here, (1, 16) in R; drawn anew",
            ],
        ),
        (
            "--process ddpm --process.variance small",
            [
                "process kind: ddpm here, flow in R",
                "process schedule: ddpm here, linear in R",
                "process prediction: noise here, velocity in R",
                "process variance: small here, None in R",
                "times: steps from 0 (data) to 999 (noise) here, times from 0 (noise) to 1 (data) "
                "in R; the embedding of times learns these anew",
                "project.out.weight, project.out.bias: negated, for R predicts velocity",
            ],
        ),
    ],
)
def test_what_fits_is_taken_and_the_rest_named(more, notes, plain, settings, tmp_path):
    config = settings(f"--init {plain} --init-partial true {more}")
    trainer, report = training.build_trainer(config, tmp_path, CPU)
    own = trainer.model.state_dict()
    state = load_model(find_weights(plain, "ema")).state_dict()
    anew = {name for line in notes for name in line.partition(": ")[0].split(", ")}
    for name, tensor in own.items():
        assert name in anew or tensor.equal(state[name]), name
    found = [line.replace(str(plain), "R") for line in report.notes]
    assert "weights: " in "".join(found)
    assert [line for line in found if not line.startswith(("label table: ", "weights: "))] == notes


def test_blocks_beyond_those_of_the_weights_are_drawn_anew():
    trained, model = build("dit"), create_model("dit", **{**MODELS["dit"][1], "depth": 3})
    label, weights, *lines = begin_from(model, Origin("there", trained, (), True), ())
    assert label.startswith("label table: 5 classes taken from there by position")
    assert all(line.startswith("blocks.2.") and line.endswith("drawn anew") for line in lines)
    assert len(lines) == len(model.blocks[2].state_dict())
    taken, own = len(trained.state_dict()), len(model.state_dict())
    assert weights == f"weights: {taken} of {own} tensors taken from there"
    with pytest.raises(InputError, match="family dico, here dit"):
        begin_from(model, Origin("there", build("dico"), (), True), ())


FAMILIES = ["flowdcn", "dico", "fcdm", "dit", "sit", "pyramid", "pyramid from one scale"]
CATS = "cats", "dogs"
ACCENTED = "\u00e9t\u00e9", "e\u0301te\u0301"


def of_classes(family, num_classes, seed=0):
    """A tiny network of so many classes, its numbers those of a seed."""
    case = "flowdcn" if family.startswith("pyramid") else family
    settings = {**MODELS[case][1], "num_classes": num_classes, "in_channels": 3}
    torch.manual_seed(seed)
    if family.startswith("pyramid"):
        backbone = {"family": case, **settings}
        coarse = "upsample" if family.endswith("scale") else "patch"
        return create_model("pyramid", backbone=backbone, coarse=coarse)
    return create_model(case, **settings)


def tables(model):
    return [module.weight for module in model.modules() if isinstance(module, LabelEmbedding)]


LABELS = [
    (CATS, CATS, [0, 1], None),
    (CATS, ("dogs", "cats"), [1, 0], "2 of 2 classes taken from there by name (dogs, cats)"),
    (
        CATS,
        ("cats", "dogs", "owls"),
        [0, 1, None],
        "2 of 3 classes taken from there by name (cats, dogs), 1 drawn anew (owls)",
    ),
    (
        CATS,
        ("apes", "cats"),
        [None, 0],
        "1 of 2 classes taken from there by name (cats), 1 drawn anew (apes), 1 left out (dogs)",
    ),
    (CATS, ("dogs",), [1], "1 of 1 classes taken from there by name (dogs), 1 left out (cats)"),
    (ACCENTED[:1], ACCENTED[1:], [0], None),
    (2, CATS, [0, 1], "2 classes taken from there by position; it has no names"),
    (3, CATS, [None, None], "2 classes drawn anew, for there has 3; it has no names"),
    ("01", "01", [0, 1], "2 classes taken from there by position; numbers are no names"),
    ("01", CATS, [0, 1], "2 classes taken from there by position; numbers are no names"),
    ("012", "01", [None, None], "2 classes drawn anew, for there has 3; numbers are no names"),
    ("37", "73", [1, 0], "2 of 2 classes taken from there by name (7, 3)"),
    (0, CATS, [None, None], "2 classes drawn anew, for there has none"),
    (CATS, (), [], "no classes here, 2 of there left out"),
    (0, (), [], None),
]
"""Classes of the origin and of the run, where its rows come from, and what is said."""

RUNS = [("flowdcn", *case) for case in LABELS] + [(name, *LABELS[3]) for name in FAMILIES[1:]]


@pytest.mark.parametrize(("family", "known", "names", "rows", "note"), RUNS)
def test_rows_of_the_label_table_follow_the_names(family, known, names, rows, note):
    """In all tables of all families; what is no label table is that of the origin."""
    inside = "flowdcn" if family.endswith("one scale") else family
    num_known, known = (known, ()) if isinstance(known, int) else (len(known), known)
    trained, model = of_classes(inside, num_known, seed=1), of_classes(family, len(names))
    before, drawn = (
        [table.detach().clone() for table in tables(each)] for each in (trained, model)
    )
    said = begin_from(model, Origin("there", trained, known), names)
    assert said == ([f"label table: {note}"] if note else [])
    assert len(tables(model)) == len(before) > 0
    for table, old, new in zip(tables(model), before, drawn, strict=True):
        assert table[-1].equal(old[-1])
        assert not table[-1].equal(new[-1])
        for place, row in enumerate(rows):
            assert table[place].equal(new[place] if row is None else old[row])
    inner = model.backbone if family.endswith("one scale") else model
    label = {id(table) for table in tables(model)}
    state = trained.state_dict()
    for name, tensor in inner.named_parameters():
        # Of a pyramid that begins from one scale, stem and head of the finest begin at zero.
        if id(tensor) not in label and (inner is model or name.startswith("blocks.")):
            assert tensor.equal(state[name]), name


def test_a_fine_tuning_says_which_classes_it_takes(words, tmp_path, caplog):
    for data, names in (("two", CATS), ("three", (*CATS, "owls"))):
        for name in names:
            (tmp_path / data / name).mkdir(parents=True)
            Image.new("L", (8, 8), len(name)).save(tmp_path / data / name / "0.png")
    short = words("--data.size 8x8 --data.channels 1 --images 4")
    for data, run, more in (("two", "a", []), ("three", "b", ["--init", str(tmp_path / "a")])):
        where = ["--data", str(tmp_path / data), "--run", str(tmp_path / run)]
        with caplog.at_level(logging.INFO, "convflow"):
            assert main(["train", "pictures.flowdcn", *short, *where, *more]) == 0
    said = f"2 of 3 classes taken from {tmp_path / 'a'} by name (cats, dogs), 1 drawn anew (owls)"
    assert f"label table: {said}" in caplog.text


def test_a_wrong_folder_is_one_line(words, tmp_path, capsys):
    run = str(tmp_path / "run")
    given = ["--init", str(tmp_path / "nothing/here"), "--run", run]
    assert main(["train", "digits.flowdcn", *words(), *given]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --init: found nothing at ")
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()
