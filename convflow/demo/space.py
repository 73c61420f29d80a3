"""The folder of a Hugging Face Space that shows a model by the web page of `convflow demo web`."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from convflow import __version__
from convflow.hub import is_id
from convflow.pipeline import Pipeline
from convflow.shipped import SHIPPED_PREFIX
from convflow.storage import explained, write_text
from convflow.types import InputError

GRADIO = "6.31.0"
"""The version of gradio that a Space runs where none is installed here."""

APP = '''"""The page of convflow demo web as a Space."""

from convflow.demo.web import serve

serve({model!r}, host=None)
'''

REQUIREMENTS = """--extra-index-url https://download.pytorch.org/whl/cpu
{package}
"""

ABOUT_SPACE = """---
title: {title}
emoji: 🖼️
colorFrom: indigo
colorTo: green
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
pinned: false
license: apache-2.0
short_description: Images at any size, drawn by a convflow model
{models}---

# {name}

This Space draws images with `{name}`, a model of [convflow](https://pypi.org/project/convflow/).
The same page runs on your machine:

```sh
pip install 'convflow[web]'
convflow demo web {model}
```
"""


MODEL_FOLDER = "model"
"""Holds a model of this machine in a Space."""


def make_space(folder: Path, model: str, package: str | None = None) -> list[Path]:
    """Write `app.py`, `requirements.txt` and `README.md` of a Space; parent folders are made.

    The Space runs on a CPU. A model of this machine is written into it, by its averaged weights; a
    Hub id and `shipped:NAME` are named.

    Args:
        folder: of the Space; it holds none of these files yet.
        model: what `Pipeline.from_pretrained` takes.
        package: what pip installs there, such as `convflow[web] @ git+https://HOST/convflow`; by
            default this version from PyPI, where it must be then.

    Returns:
        The files.

    Raises:
        InputError: no such model, or one of the files is there.
    """
    for file in ("app.py", "requirements.txt", "README.md", MODEL_FOLDER):
        if (folder / file).exists():
            raise InputError(
                f"expected a folder without {file}, got {folder}; choose another, or remove it"
            )
    name = model.rstrip("/").rpartition("/")[2]
    try:
        gradio = version("gradio")
    except PackageNotFoundError:
        gradio = GRADIO
    models = f"models:\n  - {model}\n" if is_id(model) else ""
    shown = model
    if not models and not model.startswith(SHIPPED_PREFIX):
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        Pipeline.from_pretrained(model, device="cpu").save_pretrained(folder / MODEL_FOLDER)
        shown = MODEL_FOLDER
    title = json.dumps(name, ensure_ascii=False)
    contents = {
        "app.py": APP.format(model=shown),
        "requirements.txt": REQUIREMENTS.format(package=package or f"convflow[web]=={__version__}"),
        "README.md": ABOUT_SPACE.format(
            title=title, name=name, model=shown, gradio=gradio, models=models
        ),
    }
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in contents.items():
            write_text(folder / file, text)
    return [folder / file for file in contents]
