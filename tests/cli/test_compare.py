"""The verb that compares runs: its table, its image, and what it refuses."""

import json

import pytest

from convflow.cli.main import main


def test_runs_are_compared(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    for name, rate in (("a", 0.5), ("b", 0.25)):
        (tmp_path / name).mkdir()
        line = json.dumps({"step": 1, "images": 4096, "loss": rate})
        (tmp_path / name / "metrics.jsonl").write_text(line)
        (tmp_path / name / "config.json").write_text(json.dumps({"seed": 0, "lr": rate}))
    assert main(["compare", "a", "b"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["a", "b"],
        ["images", "4,096", "4,096"],
        ["loss", "0.5", "0.25"],
        [],
        "settings that differ".split(),
        ["a", "b"],
        ["lr", "0.5", "0.25"],
        [],
        "curves in compare.png".split(),
    ]
    assert (tmp_path / "compare.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["P"], "expected a run folder with metrics.jsonl"),
        (["P", "--out", "a.jpg"], "expected a .png file, got a.jpg"),
        ([], "the following arguments are required: RUN"),
    ],
)
def test_what_is_no_run_is_one_line(words, message, tmp_path, capsys):
    assert main(["compare", *[str(tmp_path) if word == "P" else word for word in words]]) == 2
    assert message in capsys.readouterr().err
