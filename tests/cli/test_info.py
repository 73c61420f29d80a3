"""`convflow info` describes sizes, recipes and folders, for people and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convflow.cli.main import main
from convflow.models.zoo import SIZES


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["info", *words]) == 0
    return capsys.readouterr().out


def test_lists_every_published_size(capsys: pytest.CaptureFixture[str]) -> None:
    text = ask(capsys)
    assert all(name in text for name in SIZES)
    assert "618.95 M" in text


def test_json_of_all_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(ask(capsys, "--json"))
    assert found["flowdcn-b/2"]["parameters"] == 120_099_296


def test_one_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(ask(capsys, "flowdcn-s/2", "--json"))["width"] == 384


def test_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(ask(capsys, "digits.flowdcn", "--json"))
    assert found["data"]["path"] == "digits"


def test_a_run(capsys: pytest.CaptureFixture[str], tiny_run: Path) -> None:
    found = json.loads(ask(capsys, str(tiny_run), "--json"))
    assert found["images_seen"] == 8
    assert found["classes"] == [str(digit) for digit in range(10)]
    assert found["model"]["family"] == "flowdcn"
    assert f"{found['parameters']:,}" in ask(capsys, str(tiny_run))


def test_an_unknown_name_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "flowdcn-x/2"]) == 2
    assert "did you mean 'flowdcn-xl/2'?" in capsys.readouterr().err
