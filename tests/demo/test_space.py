"""The folder of a Space: three files that fit together, and the page that it serves."""

from __future__ import annotations

import ast

import pytest

import convflow
from convflow.demo.space import make_space
from convflow.pipeline import Pipeline
from convflow.types import InputError


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
    app = make_space(tmp_path, "me/pets")[0].read_text(encoding="utf-8")
    served = []
    web = pytest.importorskip("convflow.demo.web")
    monkeypatch.setattr(web, "serve", lambda model, **options: served.append((model, options)))
    ast.parse(app)
    exec(app, {})
    assert served == [("me/pets", {"host": None})]


def test_a_model_of_this_machine_comes_along(tmp_path, model_folder, monkeypatch):
    app, _, about = make_space(tmp_path, str(model_folder))
    assert "serve('model', host=None)" in app.read_text(encoding="utf-8")
    text = about.read_text(encoding="utf-8")
    assert "models:" not in text
    assert str(model_folder.parent) not in text
    monkeypatch.chdir(tmp_path)
    copied, own = (Pipeline.from_pretrained(m, device="cpu") for m in ("model", model_folder))
    assert copied.describe()["sha256"] == own.describe()["sha256"]


def test_a_shipped_model_is_named(tmp_path):
    app = make_space(tmp_path, "shipped:cifar10")[0].read_text(encoding="utf-8")
    assert "serve('shipped:cifar10', host=None)" in app
    assert not (tmp_path / "model").exists()


def test_another_place_of_the_package(tmp_path):
    package = "convflow[web] @ git+https://example.com/convflow"
    files = make_space(tmp_path, "me/pets", package)
    assert files[1].read_text(encoding="utf-8").splitlines()[-1] == package


@pytest.mark.parametrize("name", ["README.md", "app.py"])
def test_a_file_that_is_there_stays(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"without {name}"):
        make_space(tmp_path, "me/pets")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_model_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError):
        make_space(tmp_path / "space", "./nothing")
