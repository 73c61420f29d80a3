"""A score during training is that of `convflow evaluate`, for the same weights."""

import json
import sys

import pytest

from convflow.cli.main import main
from convflow.evaluation.card import read_card
from convflow.training import checkpoint
from convflow.types import InputError

DETECTOR = "tests.extending.detector:load"


@pytest.fixture
def words(data):
    __import__("tests.extending.detector")
    given = {"score": data, "score.num": 9, "score.every": 2, "score.detector": DETECTOR}
    return "--monitor.log-every 1 --sampling.steps 2 " + " ".join(
        f"--monitor.{name} {value}" for name, value in given.items()
    )


@pytest.mark.parametrize(
    "model", ["", "--model.name dico --model.width 4 --model.depths 1,1,1,1,1"]
)
def test_it_is_what_evaluate_gives(model, words, tiny, trainer_of, tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = trainer_of(tiny(f"{words} {model} --images 32"))
    assert trainer.run()
    assert checkpoint.list_steps(tmp_path / "run") == [4]
    rows = list(map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines()))
    scored = {row["step"]: row["FD-9"] for row in rows if "FD-9" in row}
    assert [*scored] == [2, 4]
    assert len({*scored.values()}) == 2
    asked = ["--reference", str(data), "--num", "9", "--detector", DETECTOR, "--metrics", "fid"]
    assert main(["evaluate", "run", *asked, "--device", "cpu", "--out", "card.json"]) == 0
    theirs, ours = (
        read_card(tmp_path / "card.json"),
        read_card(tmp_path / "run/scores/images_0000000032.json"),
    )
    assert theirs.samples_sha256 == ours.samples_sha256
    assert theirs.scores == ours.scores == {"FD-9": scored[4]}
    assert theirs.sampling == ours.sampling
    assert sorted(path.name for path in (tmp_path / "run/scores").iterdir()) == [
        "images_0000000016.json",
        "images_0000000032.json",
    ]


def test_one_that_is_stopped_or_was_left_is_no_hindrance(words, tiny, trainer_of, tmp_path):
    trainer = trainer_of(tiny(words))
    trainer.step, calls = 2, []
    assert trainer.watch.measure(lambda: len(calls) > 1 or calls.append(1)) == {}
    assert list((tmp_path / "run/scores").iterdir()) == []
    assert trainer.watch.measure(lambda: False) == trainer.watch.measure(lambda: False) != {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--monitor.score nowhere", r"--monitor\.score: .*nowhere"),
        ("--monitor.score.num 3", "expected at least 6 images to score, got 3"),
        ("--monitor.score.metrics sfid,nono", "unknown metric 'nono'"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything(change, message, words, tiny, trainer_of):
    with pytest.raises(InputError, match=message):
        trainer_of(tiny(f"{words} {change}"))


def test_a_stored_name_runs_no_code(words, tiny, trainer_of, monkeypatch):
    config = tiny(words)
    monkeypatch.delitem(sys.modules, "tests.extending.detector")
    with pytest.raises(InputError, match="add --import MODULE"):
        trainer_of(config)
