"""A metric and a detector of a user's own, by their names on the command line."""

import json

import pytest

from convflow.cli.main import main

DETECTORS = ["tests/extending/detector.py:load", "tests.extending.detector:load"]


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_metric_is_computed_by_its_name(detector, tmp_path, capsys):
    card = tmp_path / "card.json"
    words = "--num 30 --channels 1 --reference digits --reference-num 200 --device cpu".split()
    named = ["--metrics", "fid,tests.extending.metric:MeanDistance", "--detector", detector]
    assert main(["evaluate", "digits", *words, *named, "--out", str(card)]) == 0
    described = json.loads(card.read_text())
    assert list(described["scores"]) == ["FD-30", "MD-30"]
    assert 0 < described["scores"]["MD-30"] < described["scores"]["FD-30"] ** 0.5, (
        "FD has its square"
    )
    assert "MD-30" in (shown := capsys.readouterr().out)
    assert shown.count("lower is better") == 2
