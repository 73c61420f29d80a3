"""The benchmark of `pictures`: its words are those of trainings, its ratios those of its rows."""

import argparse
import json
from pathlib import Path

from PIL import Image

from benchmarks.quality import minutes as module
from convflow.data.sources import open_source
from convflow.recipes import create_config
from convflow.training.overrides import override


def test_the_rival_is_todays_recipe_at_the_same_size_and_solver():
    config = override(create_config("pictures.flowdcn"), [*module.SIZE, *module.SOLVER])
    assert config.data.size == (32, 32)
    assert (config.sampling.solver.kind, config.sampling.solver.steps) == ("ab2", 20)
    assert module.CONTENDERS == {"plan": "pictures", "usual": "pictures.flowdcn"}


def test_pictures_become_files_once(tmp_path, monkeypatch):
    digits = open_source("digits")
    monkeypatch.setattr(module, "open_source", lambda path: digits)
    options = argparse.Namespace(runs=tmp_path, data=tmp_path, num_pictures=12)
    folder = module.write_pictures(options)
    assert module.write_pictures(options) == folder
    found = open_source(str(folder))
    assert len(found) == 12
    assert len(found.class_names) == 10
    with Image.open(next(folder.rglob("0.png"))) as image:
        assert image.size == (8, 8)


def test_pictures_of_another_number_are_not_mixed(tmp_path, monkeypatch):
    digits = open_source("digits")
    monkeypatch.setattr(module, "open_source", lambda path: digits)
    cut = tmp_path / "pictures.20.draft" / "0"  # a command that was cut after the first picture
    cut.mkdir(parents=True)
    Image.new("L", (8, 8)).save(cut / "19.png")
    options = argparse.Namespace(runs=tmp_path, data=tmp_path, num_pictures=12)
    assert len(list(module.write_pictures(options).rglob("*.png"))) == 12
    assert not (tmp_path / "pictures.draft").exists()


def test_scores_of_other_numbers_are_made_anew(tmp_path, monkeypatch):
    """A run, a reference and a card bear the numbers that they depend on in their names."""
    monkeypatch.setattr(module, "write_pictures", lambda options: tmp_path / "pictures")
    monkeypatch.setattr(module, "count_of", lambda pictures: 5)
    monkeypatch.setattr(module, "keep_sheets", lambda *_: None)
    monkeypatch.setattr(module, "images_seen", lambda run: 8)
    asked = []

    def convflow(verb, *words):
        words = list(map(str, words))
        asked.append(verb)
        if verb == "train":
            Path(words[words.index("--run") + 1]).mkdir()
        elif "--save-statistics" in words:
            Path(words[-1]).touch()
        else:
            scores = {
                f"{title}-x": float(words[words.index("--num") + 1]) for title in module.SCORES
            }
            Path(words[-1]).write_text(json.dumps({"scores": scores}))

    monkeypatch.setattr(module, "convflow", convflow)
    known = {"runs": tmp_path, "data": tmp_path, "minutes": 1.0, "seeds": [0]}
    counts = []
    for num, num_pictures in ((10, 12), (10, 12), (20, 12), (10, 13)):
        options = argparse.Namespace(**known, num=num, num_pictures=num_pictures)
        rows = list(module.race_on("cifar10", options))
        assert {row[title] for row in rows for title in module.SCORES} == {str(num)}
        counts.append((asked.count("train"), asked.count("evaluate")))
        asked.clear()
    assert counts == [(2, 5), (0, 0), (0, 4), (2, 5)]


def test_ratios_are_of_the_plan_over_the_usual(capsys):
    rows = [
        {"data": "emoji", "seed": "0", "guidance": "1", "contender": name, "FD": fd}
        for name, fd in (("plan", "3"), ("usual", "12"))
    ]
    module.say_ratios(rows)
    assert capsys.readouterr().out == "emoji, seed 0, guidance 1: FD 3 / 12 = 0.25\n"
