"""The page that draws is a part of the site, and linked there, where it can be exported."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("mkdocs")

from convflow.types import InputError
from scripts.site import drawing

TEXT = f"# Title\n\n{drawing.LINK}\n\nWords.\n"


def shown(monkeypatch: pytest.MonkeyPatch, found: Path | None, url: str) -> str:
    monkeypatch.setattr(drawing, "find_page", lambda: found)
    page: Any = SimpleNamespace(url=url)
    nothing: Any = None
    return drawing.on_page_markdown(TEXT, page, nothing, nothing)


@pytest.mark.parametrize(("url", "up"), [("", ""), ("browser/", "../"), ("theory/a/", "../../")])
def test_a_button_leads_to_the_page(monkeypatch, tmp_path, url, up):
    assert f'href="{up}draw/"' in shown(monkeypatch, tmp_path, url)


def test_without_the_page_there_is_no_button(monkeypatch):
    text = shown(monkeypatch, None, "browser/")
    assert "draw/" not in text
    assert drawing.LINK not in text


def test_every_build_gets_a_copy(monkeypatch, tmp_path):
    page, site = tmp_path / "page", tmp_path / "site"
    (page / "runtime").mkdir(parents=True)
    (page / "index.html").write_text("<p>")
    config: Any = SimpleNamespace(site_dir=str(site))
    monkeypatch.setattr(drawing, "find_page", lambda: page)
    for _ in range(2):
        drawing.on_post_build(config)
    assert (site / "draw/index.html").read_text() == "<p>"


def test_the_page_is_exported_once(monkeypatch, tmp_path):
    asked = []

    def write(pipe: Any, out: Path, *, name: str) -> list[str]:
        asked.append(name)
        (out / "runtime").mkdir(parents=True)
        return ["written"]

    monkeypatch.setattr(drawing, "ROOT", tmp_path)
    monkeypatch.setattr(drawing.web, "write_page", write)
    for _ in range(2):
        drawing.find_page.cache_clear()
        assert drawing.find_page() == tmp_path / ".site" / f"draw-{drawing.fingerprint()}"
    assert asked == ["shipped:cifar10"]


@pytest.mark.parametrize("missing", ["onnx", "npm"])
def test_what_is_missing_costs_the_page_alone(monkeypatch, tmp_path, missing):
    def write(pipe: Any, out: Path, *, name: str) -> list[str]:
        if missing == "onnx":
            raise InputError("expected the packages onnx and onnxscript, found none; install them")
        out.mkdir(parents=True)
        return []

    monkeypatch.setattr(drawing, "ROOT", tmp_path)
    monkeypatch.setattr(drawing.web, "write_page", write)
    drawing.find_page.cache_clear()
    assert drawing.find_page() is None
    assert not list((tmp_path / ".site").iterdir())
    drawing.find_page.cache_clear()
