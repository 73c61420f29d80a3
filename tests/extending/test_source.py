"""A source of a user's own, by its name on the command line and in Python."""

import json
import sys

import numpy as np
import pytest

from convflow.cli.main import main
from convflow.data.sources import find_source, open_source
from convflow.types import InputError

COLOURS = "tests.extending.source:Colours"
TINY = (
    "--images 8 --batch-size 4 --monitor.num-samples 2 --sampling.steps 1 --model.width 16 "
    "--model.depth 1 --model.num-groups 2 --device cpu"
).split()


def test_a_source_is_trained_on_and_scored_by_its_name(tmp_path, monkeypatch, capsys):
    run, card = tmp_path / "run", tmp_path / "card.json"
    words = ["train", "digits.flowdcn", "--data", COLOURS, "--data.channels", "3", *TINY]
    assert main([*words, "--run", str(run)]) == 0
    described = json.loads(next(run.rglob("ema/pipeline.json")).read_text())
    assert described["class_names"] == ["red", "green", "blue"]
    words = ["--reference", COLOURS, "--num", "8", "--detector", "tests.extending.detector:load"]
    assert main(["evaluate", str(run), *words, "--device", "cpu", "--out", str(card)]) == 0
    assert json.loads(card.read_text())["reference"]["name"] == "colours"
    monkeypatch.delitem(sys.modules, "tests.extending.source")
    assert main(["train", "--resume", str(run), "--images", "16"]) == 2
    assert f"expected the code of the source of images '{COLOURS}'" in capsys.readouterr().err


def test_it_is_told_the_split_and_whether_labels_are_wanted():
    source = open_source(COLOURS, "test", labels="none")
    assert (len(source), source.class_names, np.asarray(source.read(0)).max()) == (40, (), 128)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("tests.extending.source:Colour", "did you mean 'Colours'"),
        ("tests.extending.nothing:Colours", "expected a module tests.extending.nothing"),
        (
            "tests.extending.source:np",
            "expected an object of .*:Callable, got an object of type module",
        ),
        ("builtins:max", "expected a source of images of builtins:max, got TypeError"),
        ("operator:eq", r"expected operator:eq to make a source of images \(name,.* got bool"),
    ],
)
def test_what_makes_no_source_is_refused(path, message):
    with pytest.raises(InputError, match=message):
        open_source(path)


@pytest.mark.parametrize("path", ["hf:mnist", "digits", "a/b:c", "folder", "C:\\data", ""])
def test_other_data_are_no_source_of_a_user(path):
    assert find_source(path) is None


def test_columns_belong_to_tables():
    with pytest.raises(InputError, match="expected no choice of labels or columns with tests"):
        open_source(COLOURS, image_column="image")
