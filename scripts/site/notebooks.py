"""Notebooks as pages: a hook of mkdocs. `python scripts/site/notebooks.py` runs them anew.

A page shows what the file in docs/notebooks holds, its results included; building the site runs
nothing. A cell may have `quick` in its metadata, which a test runs in place of its text.
"""

from __future__ import annotations

import base64
import re
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from PIL import Image

FOLDER = Path(__file__).resolve().parents[2] / "docs/notebooks"
SECONDS = 1800
"""What a cell may take."""
LARGE = 2**18
"""A picture of more letters is stored with 256 colours."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook, and its pictures; the notebook itself stays, to be fetched."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        text, pictures = to_markdown(Path(file.abs_src_path or ""))
        place = file.src_uri.removesuffix(".ipynb")
        files.append(File.generated(config, f"{place}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def to_markdown(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its pictures by name."""
    from nbconvert import MarkdownExporter

    resources = {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
    text, made = MarkdownExporter().from_filename(str(path), resources)
    head, _, rest = text.partition("\n\n")
    rest = re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", rest)  # links between notebooks
    fetch = f"[Fetch this notebook]({path.name}){{ .md-button download }}"
    return f"{head.strip()}\n\n{fetch}\n\n{rest}", made["outputs"]


def run(path: Path, *, quick: bool = False) -> Any:
    """Return a notebook with the results of all its cells.

    Args:
        path: of the notebook, which stays as it is.
        quick: run what cells have as `quick` in place of their text.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells if quick else []:
        cell.source = cell.metadata.get("quick", cell.source)
    NotebookClient(notebook, timeout=SECONDS, record_timing=False).execute()
    return notebook


def shrink(shown: dict[str, Any]) -> None:
    """Keep of what a cell shows the PNG alone, a large one with 256 colours."""
    if "image/png" in shown:
        shown.pop("image/jpeg", None)
        if len(shown["image/png"]) > LARGE:
            picture = Image.open(BytesIO(base64.b64decode(shown["image/png"]))).convert("RGB")
            picture.quantize(256).save(written := BytesIO(), format="png", optimize=True)
            shown["image/png"] = base64.b64encode(written.getvalue()).decode()


def main(names: list[str]) -> None:
    """Run notebooks, all of them unless some are named, and keep their results."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not names or path.stem in names:
            notebook = run(path)
            notebook.metadata["language_info"] = {"name": "python"}  # without the version
            for cell in notebook.cells:  # warnings are of the machine, not of the matter
                said = cell.get("outputs", [])
                cell |= {"outputs": [o for o in said if o.get("name") != "stderr"]} if said else {}
                for output in said:
                    shrink(output.get("data", {}))
            nbformat.write(notebook, path)


if __name__ == "__main__":
    main(sys.argv[1:])
