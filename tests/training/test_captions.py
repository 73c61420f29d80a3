"""Training on captions: by words, and by the features of a frozen encoder."""

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.reliability import kills
from convflow.cli.main import main
from convflow.pipeline import Pipeline
from convflow.texts import PretrainedText, TrainedText
from convflow.training import checkpoint, launch
from convflow.training.captions import CaptionSet, split_captions
from convflow.training.text_table import check_alike, make_table, open_table
from convflow.types import InputError
from tests.tiny_encoders import save_encoder
from tests.two_processes import start_many

SAID = ["a red cat", "a blue dog", "a red cat\nthe cat", "", "big green heart on a square"]
WORDS = TrainedText(max_tokens=5, rows=64, width=8, depth=1)
TOLD = {
    "words": "--text words --text.rows 64 --text.width 8 --text.depth 1 --text.max-tokens 5",
    "pretrained": "--text.encoder ENCODER --text.max-tokens 6",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Images with captions beside them, and an encoder."""
    place = tmp_path_factory.mktemp("captions")
    data = kills.make_pictures(place / "images")
    for number, path in enumerate(sorted(data.rglob("*.png"))):
        if text := SAID[number % len(SAID)]:
            path.with_suffix(".txt").write_text(text, encoding="utf-8")
    save_encoder("t5", place / "encoder")
    return place


def words_of(place, told, run, more=""):
    """Return the words of a training on captions."""
    given = TOLD[told].replace("ENCODER", str(place / "encoder"))
    rest = f"--precision float32 --device cpu --label-dropout 0.3 --model.cross-attention 1 {more}"
    data = ["pictures.flowdcn", "--data", str(place / "images"), "--run", str(run)]
    return [*data, *kills.SETTINGS, *given.split(), *rest.split()]


def train(*given, **more):
    return main(["train", *words_of(*given, **more)])


def weights(run, step):
    folder = checkpoint.folder_of(run, step)
    names = ("raw/model.safetensors", "ema/model.safetensors", "optimizer.safetensors")
    return [(folder / name).read_bytes() for name in names]


def test_numbers_of_captions_are_those_of_the_images():
    captions = CaptionSet(WORDS, [split_captions(text) for text in SAID])
    assert captions.texts == (
        *("a red cat", "a blue dog", "the cat", "big green heart on a square", ""),
    )
    images = torch.arange(5)
    assert captions.draw(images, None).tolist() == [0, 1, 0, 4, 3]
    assert captions.draw(images, torch.full((5,), 0.9)).tolist() == [0, 1, 2, 4, 3]
    assert captions.several
    told = captions.conditions(torch.tensor([1, 4]))
    assert told.equal(WORDS.encode(["a blue dog", ""]))


def test_each_of_several_captions_is_drawn():
    captions = CaptionSet(WORDS, [["a", "b", "c"], ["d"]])
    shares = torch.linspace(0, 0.999, 30)
    drawn = captions.draw(torch.zeros(30, dtype=torch.int64), shares)
    assert sorted(set(drawn.tolist())) == [0, 1, 2]
    assert captions.fingerprint != CaptionSet(WORDS, [["a", "b"], ["d"]]).fingerprint


def test_texts_of_previews_are_no_captions():
    said = [["a red cat"], ["a blue dog"], []]
    plain, other = CaptionSet(WORDS, said), CaptionSet(WORDS, said, ["a cat", "a cat", "a red cat"])
    assert other.texts == plain.texts
    assert other.fingerprint == plain.fingerprint
    assert other.examples(9) == plain.prompts(9).texts == ("a red cat", "a blue dog")
    shown = other.prompts(9)
    assert shown.texts == ("a cat", "a cat", "a red cat")
    assert shown.conditions([1, 2, 0]).equal(WORDS.encode(["a cat", "a red cat", "a cat"]))


@pytest.mark.parametrize("told", TOLD)
def test_a_run_goes_on_to_the_same_bits_and_draws_what_is_asked(place, told, tmp_path, caplog):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert train(place, told, straight, more="--images 48") == 0
    assert train(place, told, stopped, more="--images 24") == 0
    assert train(place, told, stopped, more="--images 48") == 0
    assert weights(stopped, 6) == weights(straight, 6)
    assert (stopped / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()
    assert len(list((straight / "samples").glob("*.png"))) == 2
    caplog.set_level(logging.INFO, "convflow")
    pipe = Pipeline.from_pretrained(straight, device="cpu")
    long = "the small blue circle and the big red square and a dog"
    made = pipe(prompts=["a red cat", long, "a red cat"], steps=2, guidance=2.0)
    assert made.labels == ["a red cat", long, "a red cat"]
    assert "are read" in caplog.text
    assert pipe.prompts[0] == "a red cat"
    folder = tmp_path / "model"
    pipe.save_pretrained(folder)
    again = Pipeline.from_pretrained(folder, device="cpu")
    assert again(prompts=made.labels, steps=2, guidance=2.0).pixels.equal(made.pixels)
    for given in ({"labels": ["even"]}, {"prompts": []}):
        with pytest.raises(InputError, match="expected"):
            pipe(**given)


def test_features_are_made_once_and_no_encoder_is_asked_again(place, tmp_path, monkeypatch):
    run = tmp_path / "run"
    assert train(place, "pretrained", run, more="--images 16") == 0
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert len(config["text"]["sha256"]) == 64
    stored = np.load(run / "texts" / "part0.npy")
    assert stored.shape == (5, 6, 24)

    def fail(*_):
        raise InputError("no encoder here")

    monkeypatch.setattr("convflow.text_encoders.load", fail)
    assert train(place, "pretrained", run, more="--images 24") == 0


def test_features_of_half_precision_are_guided_in_bfloat16(place, tmp_path):
    run, more = tmp_path / "run", "--text.dtype bfloat16 --precision bfloat16 --sampling.guidance 2"
    assert train(place, "pretrained", run, more=f"--images 16 {more}") == 0
    assert np.load(run / "texts" / "part0.npy").dtype == np.float16
    pipe = Pipeline.from_pretrained(run, device="cpu")
    made = pipe(prompts="a red cat", num=1, steps=2, guidance=2.0, precision="bfloat16")
    assert made.labels == ["a red cat"]


@pytest.mark.parametrize("told", TOLD)
def test_every_process_and_objective_is_told_texts(place, told, tmp_path):
    process = {
        "words": "--process meanflow --process.guidance 2 --objectives.dispersive.weight 0.1"
        " --micro-batch none",
        "pretrained": "--process dfm --objectives.align.kind sra --data.augment 0.2"
        " --sampling.steps 2",
    }[told]
    more = f"--images 16 {process} --monitor.validation 4 --monitor.validation.every 1"
    assert train(place, told, tmp_path / "run", more=more) == 0


def test_previews_of_a_file_are_of_its_texts_and_may_change(place, tmp_path, monkeypatch, caplog):
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    for folder in (work, elsewhere):
        folder.mkdir()
    (work / "prompts.txt").write_text("a green dog\nthe heart\n", encoding="utf-8")
    caplog.set_level(logging.INFO, "convflow")
    run = work / "run"
    monkeypatch.chdir(work)
    assert train(place, "pretrained", run, more="--images 16 --monitor.prompts prompts.txt") == 0
    first = sorted((run / "samples").glob("*ema*"))[-1].read_bytes()
    assert (run / "captions.jsonl").read_text(encoding="utf-8").count("\n") == 4
    monkeypatch.chdir(elsewhere)  # the file is found from the run
    assert train(place, "pretrained", run, more="--images 24 --monitor.prompts prompts.txt") == 0
    made = np.load(run / "texts" / "part0.npy")
    long = elsewhere / "long.txt"
    long.write_text("a big red cat and the small blue dog\n", encoding="utf-8")
    assert train(place, "pretrained", run, more=f"--images 32 --monitor.prompts {long}") == 0
    assert "'a big red cat and the small blue dog' has" in caplog.text
    assert np.array_equal(np.load(run / "texts" / "part0.npy"), made)
    last = sorted((run / "samples").glob("*ema*"))[-1].read_bytes()
    assert last != first


def test_an_encoder_leaves_the_memory_when_its_features_are_made(place, tmp_path, monkeypatch):
    seen = []

    def note(captions, *given):
        prepare(captions, *given)
        seen.append("network" in vars(captions.encoder))

    prepare = CaptionSet.prepare
    monkeypatch.setattr(CaptionSet, "prepare", note)
    assert train(place, "pretrained", tmp_path / "run", more="--images 16") == 0
    assert seen == [False]


def test_stores_of_different_encoders_are_refused_together(place, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    tables = []
    for folder, most in zip(folders, (6, 7), strict=True):
        folder.mkdir()
        encoder = PretrainedText(str(place / "encoder"), max_tokens=most).prepare()
        make_table(folder, ["a cat", ""], encoder)
        tables.append(open_table(folder))
    check_alike([tables[0], tables[0]], folders)
    with pytest.raises(InputError, match="expected features of captions by one text encoder"):
        check_alike(tables, folders)


def test_weights_of_labels_are_refused_with_the_cure_for_texts(place, tmp_path, capsys):
    labels, told = tmp_path / "labels", tmp_path / "told"
    words = ["pictures.flowdcn", "--data", str(place / "images"), "--run", str(labels)]
    assert main(["train", *words, *kills.SETTINGS, "--images", "8", "--device", "cpu"]) == 0
    assert train(place, "words", told, more=f"--images 8 --init {labels}") == 2
    error = capsys.readouterr().err
    assert "--text none" in error
    assert "--model.text-width" not in error
    assert train(place, "words", tmp_path / "first", more="--images 8") == 0
    assert train(place, "words", told, more=f"--images 8 --init {tmp_path / 'first'}") == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--label-noise 0.1", "--label-noise: expected 0"),
        ("--model.text-width 9", "expected 8 as in the text encoder"),
        ("--monitor.prompts nowhere.txt", "--monitor.prompts: expected a file"),
    ],
)
def test_settings_that_do_not_fit_are_refused(place, tmp_path, capsys, more, message):
    assert train(place, "words", tmp_path / "run", more=more) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_images_without_captions_are_refused_with_what_to_do(tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(8):
        Image.new("L", (8, 8), number).save(folder / f"{number}.png")
    words = ["pictures.flowdcn", "--data", str(folder), "--run", str(tmp_path / "run")]
    assert main(["train", *words, *kills.SETTINGS, "--text", "words"]) == 2
    assert "got none in" in capsys.readouterr().err


def test_other_captions_are_refused_on_resume(place, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(place, "words", run, more="--images 16") == 0
    path = next(iter(sorted((place / "images").rglob("*.txt"))))
    before = path.read_text(encoding="utf-8")
    path.write_text("something else", encoding="utf-8")
    try:
        assert train(place, "words", run, more="--images 24") == 2
    finally:
        path.write_text(before, encoding="utf-8")
    assert "captions" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_are_as_one(place, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    more = "--images 24 --batch-size 6 --micro-batch none"
    words = words_of(place, "pretrained", two, more=more)
    answers = start_many(2, ["-m", "convflow", "train", *words], 300, **kills.BYTECODE)
    assert [code for code, _, _ in answers] == [0, 0], answers
    assert train(place, "pretrained", one, more=more) == 0
    lines = [(run / "metrics.jsonl").read_text().splitlines() for run in (one, two)]
    for single, double in (map(json.loads, pair) for pair in zip(*lines, strict=True)):
        assert double == pytest.approx(single, rel=1e-4)


def test_a_store_keeps_features_of_captions_and_training_asks_no_encoder(
    place, autoencoder, tmp_path, monkeypatch
):
    store, encoder = tmp_path / "store", str(place / "encoder")
    words = ["--codec.autoencoder", autoencoder, "--data.size", "32x32", "--codec.scale", "0.5"]
    words += ["--text.encoder", encoder, "--text.max-tokens", "6", "--device", "cpu"]
    data = str(place / "images")
    assert main(["encode", data, "--captions", *words, "--out", str(store)]) == 0
    assert (store / "texts" / "texts.json").is_file()

    def fail(*_):
        raise InputError("no encoder here")

    monkeypatch.setattr("convflow.text_encoders.load", fail)
    given = ["pictures.flowdcn", "--data", str(store), "--run", str(tmp_path / "run")]
    given += [*kills.SETTINGS, "--data.size", "32x32", "--data.channels", "3", "--images", "16"]
    assert main(["train", *given, "--text", "pretrained", "--device", "cpu"]) == 0
    config = launch.read_run_config(tmp_path / "run")
    assert (config.text.encoder, config.text.max_tokens, config.text.width) == (encoder, 6, 24)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2


def test_captions_alone_need_no_flag(autoencoder, place, tmp_path, capsys):
    words = [str(place / "images"), "--captions", "--codec.autoencoder", autoencoder]
    assert main(["encode", *words, "--out", str(tmp_path / "store")]) == 2
    assert "--text.encoder" in capsys.readouterr().err
    words += ["--data.size", "32x32", "--codec.scale", "0.5"]
    assert main(["encode", *words, "--text.encoder", "no", "--out", str(tmp_path / "store")]) == 2
    assert "--text.encoder" in capsys.readouterr().err
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
