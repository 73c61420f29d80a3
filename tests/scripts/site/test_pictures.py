"""The gallery has a card for each row of its table, and diagrams stand in the page itself."""

from __future__ import annotations

import csv

import pytest

pytest.importorskip("mkdocs")

from convflow.cli.main import VERBS
from scripts.site import pictures


def test_every_row_is_a_card() -> None:
    with pictures.TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    page = (pictures.DOCS / "gallery.md").read_text(encoding="utf-8")
    shown = pictures.on_page_markdown(page, None, None, None)  # type: ignore[arg-type]
    assert rows
    assert pictures.CARDS in page
    assert pictures.CARDS not in shown
    for row in rows:
        assert None not in row.values()
        assert (pictures.DOCS / "images" / row["picture"]).is_file(), row["picture"]
        assert f"](images/{row['picture']})" in shown
        assert row["command"] in shown
        program, verb = row["command"].split()[:2]
        assert program in {"make", "python"} or (program == "convflow" and verb in VERBS), row[
            "command"
        ]


def test_a_diagram_takes_the_place_of_its_image() -> None:
    other = '<img alt="" src="images/a.png" />'
    html = f'<p><img alt="A block" src="../images/operator.svg" /> {other}</p>'
    shown = pictures.on_page_content(html, None, None, None)  # type: ignore[arg-type]
    assert '<span class="figure"><svg ' in shown
    assert "operator.svg" not in shown
    assert other in shown
