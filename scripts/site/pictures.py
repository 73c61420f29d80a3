"""Diagrams in the colours of the page, and the cards of the gallery: a hook of mkdocs."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).resolve().parents[2] / "docs"
TABLE = DOCS / "gallery.csv"
CARDS = "<!-- the cards of gallery.csv -->"
"""What stands in docs/gallery.md for the cards."""


def on_page_markdown(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the cards of the gallery in their place."""
    return text.replace(CARDS, "\n".join(cards())) if CARDS in text else text


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put every diagram itself in place of its image, so that it takes the colours of the page."""
    return re.sub(r'<img alt="[^"]*" src="[^"]*/(\w+)\.svg" ?/?>', _inline, html)


def cards() -> Iterator[str]:
    """Yield the gallery as Markdown, a card for each row of `gallery.csv`.

    A row is a picture in docs/images, a title, the command that draws it, and what it shows.
    """
    yield '<div class="grid cards" markdown>\n'
    with TABLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            picture = f"images/{row['picture']}"
            lines = [
                f"**{row['title']}**",
                f"[![{row['shows']}]({picture}){{ loading=lazy }}]({picture})",
                row["shows"],
                f"```text\n{row['command']}\n```",
            ]
            indented = "\n\n".join(lines).replace("\n", "\n    ").replace("\n    \n", "\n\n")
            yield f"-   {indented}\n"
    yield "</div>"


def _inline(image: re.Match[str]) -> str:
    diagram = (DOCS / "images" / f"{image[1]}.svg").read_text(encoding="utf-8")
    return f'<span class="figure">{diagram.strip()}</span>'
