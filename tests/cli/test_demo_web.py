"""`convflow demo web`: what it hands to the page, and what it says where something is missing."""

from __future__ import annotations

import importlib.util
import sys
import types

import pytest

from convflow import shipped
from convflow.cli.main import main


@pytest.fixture
def served(monkeypatch):
    """What the page was told to serve."""
    calls = []

    def serve(model, tell, **options):
        calls.append((model, options))
        tell("http://127.0.0.1:7861/")

    module = types.ModuleType("convflow.demo.web")
    module.serve = serve
    monkeypatch.setitem(sys.modules, "convflow.demo.web", module)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: name if name == "gradio" else found(name)
    )
    return calls


def test_the_page_is_served_with_the_options_given(served, capsys):
    words = (
        "demo web runs/pets --data pets --port 7861 --queue 3 --most 2 --largest 64 --device cpu"
    )
    assert main(words.split()) == 0
    ((model, options),) = served
    limits = options.pop("limits")
    assert (model, limits.num, limits.side) == ("runs/pets", 2, 64)
    assert options == {
        "data": "pets", "device": "cpu", "host": "127.0.0.1", "port": 7861, "queue": 3
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "http://127.0.0.1:7861/ shows runs/pets; Ctrl-C ends it" in said


def test_too_many_images_are_refused(served, capsys):
    assert main("demo web runs/pets --most 65".split()) == 2
    assert "--most: expected a whole number from 1 to 64, got '65'" in capsys.readouterr().err
    assert not served


def test_without_gradio_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main("demo web runs/pets".split()) == 2
    assert "pip install 'convflow[web]'" in capsys.readouterr().err


def test_without_a_model_the_shipped_one_is_shown(served, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(shipped, "SHIPPED_FOLDER", tmp_path)
    assert main(["demo", "web"]) == 2
    assert "expected the shipped model" in capsys.readouterr().err
    folder = tmp_path / next(iter(shipped.SHIPPED))
    folder.mkdir()
    (folder / "model.safetensors").touch()
    assert main(["demo", "web"]) == 0
    assert main(["demo", "web", "shipped:cifar10"]) == 0
    assert [model for model, _ in served] == ["shipped:cifar10"] * 2
    assert str(tmp_path) not in capsys.readouterr().out
