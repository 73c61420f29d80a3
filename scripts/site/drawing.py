"""The page on which shipped:cifar10 draws in a browser, as a part of the site: a hook of mkdocs.

`convflow export shipped:cifar10 --to web` writes it once into `.site`, and every build copies it to
`draw/`. It needs the extra `onnx`, and npm for onnxruntime-web. Where one of them is missing, the
site has no such page and no link to it.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from functools import cache
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from convflow.integrations import web
from convflow.shipped import path
from convflow.types import InputError

ROOT = Path(__file__).resolve().parents[2]
MODEL = "shipped:cifar10"
PLACE = "draw"
LINK = "<!-- the page that draws -->"
"""What stands in a page of docs/ for a button that opens it."""

log = logging.getLogger("mkdocs")


def on_page_markdown(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put a button in its place."""
    if LINK not in text:
        return text
    up = "../" * page.url.count("/")
    button = f'<a class="md-button md-button--primary" href="{up}{PLACE}/">Draw in this browser</a>'
    return text.replace(LINK, button if find_page() else "")


def on_post_build(config: MkDocsConfig) -> None:
    """Copy the page into the site."""
    if found := find_page():
        shutil.copytree(found, Path(config.site_dir) / PLACE, dirs_exist_ok=True)


@cache
def find_page() -> Path | None:
    """Return the folder of the page, exported now unless it is there; None where that fails."""
    folder = ROOT / ".site" / f"draw-{fingerprint()}"
    if folder.is_dir():
        return folder
    from convflow.pipeline import Pipeline

    folder.parent.mkdir(exist_ok=True)
    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        pipe = Pipeline.from_pretrained(MODEL, device="cpu")
        for line in web.write_page(pipe, draft, name=MODEL):
            log.info(line)
    except InputError as error:
        log.info(f"the site has no page {PLACE}/: {error}")
        return None
    if not (draft / "runtime").is_dir():
        log.info(f"the site has no page {PLACE}/: npm gave no {web.RUNTIME}")
        shutil.rmtree(draft)
        return None
    return draft.rename(folder)


def fingerprint() -> str:
    """Return a name for all that the page is made of."""
    model = path(MODEL.partition(":")[2])
    files = [*sorted(web.PAGE.iterdir()), Path(web.__file__), *sorted(model.iterdir())]
    found = hashlib.sha256(web.VERSION.encode())
    for file in files:
        found.update(file.read_bytes())
    return found.hexdigest()[:12]
