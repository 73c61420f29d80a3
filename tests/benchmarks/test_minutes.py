"""The benchmark of `pictures`: its words are those of trainings, its ratios those of its rows."""

import argparse

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


def test_ratios_are_of_the_plan_over_the_usual(capsys):
    rows = [
        {"data": "emoji", "seed": "0", "guidance": "1", "contender": name, "FD": fd}
        for name, fd in (("plan", "3"), ("usual", "12"))
    ]
    module.say_ratios(rows)
    assert capsys.readouterr().out == "emoji, seed 0, guidance 1: FD 3 / 12 = 0.25\n"
