"""The folder of a Hugging Face Space that shows a model by the web page of `convflow demo web`."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from convflow import __version__
from convflow.hub import is_id
from convflow.storage import explained, write_text

GRADIO = "6.31.0"
"""The version of gradio that a Space runs where none is installed here."""

APP = '''"""The page of convflow demo web as a Space."""

from convflow.demo.web import serve

serve({model!r}, host=None)
'''

REQUIREMENTS = """--extra-index-url https://download.pytorch.org/whl/cpu
convflow[web]=={version}
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
convflow demo web {name}
```
"""


def make_space(folder: Path, model: str) -> list[Path]:
    """Write `app.py`, `requirements.txt` and `README.md` of a Space; parent folders are made.

    The Space runs on a CPU. What it installs is this version of convflow.

    Args:
        folder: of the Space.
        model: what `Pipeline.from_pretrained` takes there, such as a Hub id.

    Returns:
        The files.
    """
    name = model.rpartition("/")[2]
    try:
        gradio = version("gradio")
    except PackageNotFoundError:
        gradio = GRADIO
    models = f"models:\n  - {model}\n" if is_id(model) else ""
    title = json.dumps(name, ensure_ascii=False)
    contents = {
        "app.py": APP.format(model=model),
        "requirements.txt": REQUIREMENTS.format(version=__version__),
        "README.md": ABOUT_SPACE.format(title=title, name=model, gradio=gradio, models=models),
    }
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in contents.items():
            write_text(folder / file, text)
    return [folder / file for file in contents]
