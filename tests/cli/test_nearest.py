"""The verb that shows samples beside their nearest training images."""

import json
import shutil

import pytest

from convflow.cli.main import main
from convflow.codecs import PixelCodec
from convflow.pipeline import Pipeline
from tests.cases import build
from tests.cli.bad_input import DETECTOR

FEW = "--num 4 --steps 1 --device cpu --references 20".split()


def test_a_run_and_a_model_folder_with_a_detector(tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["nearest", str(tiny_run), *FEW]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("By pixels, no sign of copies: samples lie farther")
    assert said[-1] == "nearest.html nearest.png nearest.json"
    before = (tmp_path / "nearest.html").read_text()
    assert main(["nearest", str(tiny_run), *FEW, "--seed", "1"]) == 2
    complained = capsys.readouterr().err.splitlines()[-1]
    assert "got nearest.html, nearest.png, nearest.json; add --overwrite" in complained
    assert (tmp_path / "nearest.html").read_text() == before
    assert main(["nearest", str(tiny_run), *FEW, "--seed", "1", "--overwrite"]) == 0
    assert (tmp_path / "nearest.html").read_text() != before
    folder = next(tiny_run.glob("checkpoints/*/ema"))
    shutil.copytree(folder, "model")
    words = f"nearest model --data digits --detector {DETECTOR} --neighbours 1 --labels 3 --size 10"
    assert main([*words.split(), *FEW, "--out", "b.html"]) == 0
    found = json.loads((tmp_path / "b.json").read_text())
    assert list(found["distances"]) == ["pixels", "features of detector.py:load"]
    assert found["training_images"] == 1797
    assert [len(row) for row in found["nearest"]] == [1] * 4
    assert found["references"] == "20 training images, each beside the other ones"


def test_models_of_videos_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Pipeline(build("flowdcn-video"), PixelCodec(), (4, 8, 8), device="cpu").save_pretrained("clips")
    assert main(["nearest", "clips", *FEW]) == 2
    assert "expected a model of images to compare" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["clips"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--out a.png", "--out: expected an .html file, got a.png"),
        ("--num 1", "--num: expected at least 2 samples, got 1"),
        ("--detector-sha256 12345678", "expected --detector with it, got none"),
        ("--data P", "expected images (JPEG PNG WEBP BMP TIFF GIF PPM"),
        ("--size 0", "--size: expected sides of at least 1 pixel"),
        ("--detector nothing", "unknown detector 'nothing'"),
    ],
)
def test_bad_input(words, message, tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "P").mkdir()
    assert main(["nearest", str(tiny_run), *FEW, *words.split()]) == 2
    complained = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in complained
    assert [path.name for path in tmp_path.iterdir()] == ["P"]
