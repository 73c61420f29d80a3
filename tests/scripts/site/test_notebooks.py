"""The notebooks run, hold their results, and become pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("nbformat")

from scripts.site import notebooks

PATHS = sorted(notebooks.FOLDER.glob("*.ipynb"))


def cells(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return found


def test_there_are_notebooks() -> None:
    names = {path.stem for path in PATHS}
    assert names >= {"flow", "digits", "sizes", "dfm", "operator"}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_file_holds_the_results_of_all_its_cells_in_order(path: Path) -> None:
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
    kinds = [output["output_type"] for cell in code for output in cell["outputs"]]
    assert "display_data" in kinds or "execute_result" in kinds
    assert "error" not in kinds
    assert path.stat().st_size < 2**20


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_becomes_a_page_with_its_pictures(path: Path) -> None:
    pytest.importorskip("nbconvert")
    text, pictures = notebooks.to_markdown(path)
    assert text.startswith("# ")
    assert "```python\n" in text
    assert f"]({path.name})" in text
    assert pictures
    for name, content in pictures.items():
        assert f"]({name})" in text
        assert content.startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(notebooks.FOLDER.parents[1]))
    notebook = notebooks.run(path, quick=True)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
