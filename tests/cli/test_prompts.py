"""Commands on a model that is told texts: sample, evaluate, info, push and the page of demo."""

import json
import shutil

import pytest
from PIL import Image

from benchmarks.reliability import kills
from convflow.cli.main import main
from convflow.demo.studio import Studio
from convflow.evaluation.card import read_card
from convflow.pipeline import Pipeline
from convflow.types import InputError
from tests.tiny_encoders import save_encoder

DETECTOR = "tests.extending.detector:load"
SAID = ["a red cat", "a blue dog", "big green heart"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images, their captions, a text encoder, and a run that has a score."""
    place = tmp_path_factory.mktemp("prompts")
    data = kills.make_pictures(place / "images")
    for number, path in enumerate(sorted(data.rglob("*.png"))):
        path.with_suffix(".txt").write_text(SAID[number % len(SAID)], encoding="utf-8")
    save_encoder("clip", place / "encoder")
    __import__("tests.extending.detector")
    score = {"score": data, "score.num": 9, "score.every": 2, "score.detector": DETECTOR}
    words = ["train", "pictures.flowdcn", "--data", str(data), "--run", str(place / "run")]
    words += [*kills.SETTINGS, "--images", "16", "--device", "cpu", "--precision", "float32"]
    words += ["--text.encoder", str(place / "encoder"), "--text.max-tokens", "6"]
    words += ["--model.cross-attention", "1"]
    words += [word for name, value in score.items() for word in (f"--monitor.{name}", str(value))]
    assert main(words) == 0
    return place


def evaluate(place, *words):
    data = ["--reference", str(place / "images"), "--detector", DETECTOR, "--metrics", "fid"]
    return main(["evaluate", *map(str, words), *data, "--num", "9", "--device", "cpu"])


def test_evaluate_draws_the_captions_as_the_score_of_the_training_does(place, tmp_path):
    assert evaluate(place, place / "run", "--out", tmp_path / "card.json") == 0
    theirs = read_card(tmp_path / "card.json")
    ours = read_card(place / "run/scores/images_0000000016.json")
    assert theirs.samples_sha256 == ours.samples_sha256
    assert theirs.scores == ours.scores
    assert theirs.sampling == ours.sampling
    asked = theirs.sampling["prompts"]
    assert sorted(asked["texts"]) == sorted(SAID)
    assert asked["count"] == 3
    assert len(asked["encoder"]["sha256"]) == 64


def test_evaluate_of_a_model_folder_wants_prompts(place, tmp_path, capsys):
    folder, prompts = tmp_path / "model", tmp_path / "prompts.txt"
    Pipeline.from_pretrained(place / "run", device="cpu").save_pretrained(folder)
    assert evaluate(place, folder, "--out", tmp_path / "card.json") == 2
    assert "add --prompts FILE" in capsys.readouterr().err
    prompts.write_text("a small circle\n", encoding="utf-8")
    card = tmp_path / "card.json"
    assert evaluate(place, folder, "--prompts", prompts, "--out", card) == 0
    assert read_card(card).sampling["prompts"]["texts"] == ["a small circle"]


def test_sample_names_its_files_by_the_prompts(place, tmp_path, capsys):
    words = ["sample", str(place / "run"), "--prompt", "a red cat", "--prompt", "../a/b: c?"]
    out = tmp_path / "out"
    assert main([*words, "--single", "--out", str(out), "--device", "cpu"]) == 0
    names = sorted(path.name for path in out.iterdir())
    assert len(names) == 2
    assert any("red" in name for name in names)
    assert main(["sample", str(place / "run"), "--label", "cat", "--device", "cpu"]) == 2
    assert "--prompt TEXT" in capsys.readouterr().err


def test_info_says_what_the_model_is_told(place, capsys):
    assert main(["info", str(place / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["texts"]["kind"] == "pretrained"
    assert found["prompts"] == SAID
    assert found["classes"] == []


def test_a_repository_names_the_encoder_and_finds_it_where_it_is_put(
    place, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    options = ["--dry-run", "dry", "--license", "mit", "--device", "cpu"]
    assert main(["push", str(place / "run"), "me/cats", *options]) == 0
    text = (tmp_path / "dry/README.md").read_text(encoding="utf-8")
    assert "text-to-image" in text
    assert "takes texts" in text
    stored = (tmp_path / "dry/pipeline.json").read_text(encoding="utf-8")
    assert str(place) not in stored
    words = ["sample", "dry", "--num", "2", "--device", "cpu"]
    capsys.readouterr()
    assert main(words) == 2
    assert "encoder" in capsys.readouterr().err
    shutil.copytree(place / "encoder", tmp_path / "dry/encoder")
    assert main(words) == 0
    assert Image.open("samples.png").size[0] > 8
    shutil.rmtree(tmp_path / "dry/encoder")
    save_encoder("clip", tmp_path / "dry/encoder", seed=1)
    assert main(words) == 2
    assert "SHA-256" in capsys.readouterr().err


def test_the_page_takes_texts(place):
    studio = Studio(Pipeline.from_pretrained(place / "run", device="cpu"), "cats")
    assert studio.class_names == SAID
    request = studio.read(["a red cat"], studio.pipe.size, num=2, seed=3, guidance=2.0)
    samples = studio.samples(request)
    assert samples.prompts.texts == ("a red cat",)
    assert "--prompt 'a red cat'" in request.command("cats")
    pixels = list(studio.make(samples, request.num))[-1].pixels
    assert pixels.equal(studio.pipe(prompts="a red cat", num=2, seed=3, guidance=2.0).pixels)
    with pytest.raises(InputError, match="texts: expected"):
        studio.read(["a" * 5000], studio.pipe.size, num=2, seed=3)
    studio.close()
