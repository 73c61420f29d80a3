"""`convflow demo` draws with the models of the package, names the page and what to try next."""

import shlex
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from convflow import shipped
from convflow.cli.main import main
from tests.stand_in import put_stand_in


def test_draws_a_page_and_its_advice_works(capsys, monkeypatch, tmp_path):
    for name in shipped.SHIPPED:
        put_stand_in(tmp_path / "models", monkeypatch, name)
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("demo.png  <- images by shipped:cifar10 and shipped:emoji, drawn in ")
    with Image.open("demo.png") as page:
        assert page.width > 1000
    for line in [line for line in said.splitlines() if "convflow sample" in line]:
        assert main([*shlex.split(line)[1:], "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "8 images of 48x32 in some.png" in said
    assert "8 images of 64x64 in more.png" in said
    assert main(["demo", "--out", "a/b.png"]) == 0
    assert (tmp_path / "a/b.png").is_file()


def test_a_package_without_the_model_says_so_in_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(shipped, "SHIPPED_FOLDER", tmp_path)
    assert main(["demo", "--out", str(tmp_path / "x.png")]) == 2
    err = capsys.readouterr().err
    assert "expected the shipped model cifar10 in" in err
    assert err.count("\n") == 1
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", ["digits", "web"])
def test_another_demo_gets_its_words(name, monkeypatch):
    seen = []
    module = SimpleNamespace(main=lambda words: seen.append(words) or 7)
    monkeypatch.setitem(sys.modules, f"convflow.cli.demo_{name}", module)
    assert main(["demo", name, "--run", "x"]) == 7
    assert seen == [["--run", "x"]]
