"""The folder of a Space: three files that fit together, and the page that it serves."""

from __future__ import annotations

import ast

import pytest

import convflow
from convflow.demo.space import make_space


def front_matter(text: str) -> dict[str, str]:
    """The YAML keys at the top of a README that fit a line each."""
    head = text.split("---\n")[1]
    return dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)


def test_a_space_has_three_files(tmp_path):
    files = make_space(tmp_path / "new" / "space", "me/pets")
    assert [path.name for path in files] == ["app.py", "requirements.txt", "README.md"]
    assert f"convflow[web]=={convflow.__version__}" in files[1].read_text(encoding="utf-8")
    about = files[2].read_text(encoding="utf-8")
    keys = front_matter(about)
    assert keys["sdk"] == "gradio"
    assert keys["app_file"] == "app.py"
    assert keys["title"] == '"pets"'
    assert len(keys["short_description"]) <= 60
    assert "models:\n  - me/pets\n" in about


def test_the_program_serves_the_model(tmp_path, monkeypatch):
    app = make_space(tmp_path, "it's/mine")[0].read_text(encoding="utf-8")
    served = []
    web = pytest.importorskip("convflow.demo.web")
    monkeypatch.setattr(web, "serve", lambda model, **options: served.append((model, options)))
    ast.parse(app)
    exec(app, {})
    assert served == [("it's/mine", {"host": None})]


def test_a_folder_is_named_without_models(tmp_path):
    about = make_space(tmp_path, "./model")[2].read_text(encoding="utf-8")
    assert "models:" not in about
