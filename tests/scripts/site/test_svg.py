"""Shapes are written as SVG that a reader of XML takes, in colours that a page can set."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from scripts.site.svg import DARK, LIGHT, Drawing

SHEET = Path(__file__).parents[3] / "docs/stylesheets/extra.css"


def test_shapes_are_well_formed() -> None:
    drawing = Drawing(100, 80, "a < b & c")
    drawing.box(50, 40, 60, 20, "one\n<two>", "mix")
    drawing.arrow((0, 0), (10, 0))
    drawing.plus(20, 20)
    drawing.tile(0, 0, 20, [[0.0, 1.0], [0.5, 2.0]])
    root = ET.fromstring(drawing.svg())
    words = [node.text for node in root.iter() if node.tag.endswith("text")]
    assert words == ["one", "<two>"]
    assert root.get("viewBox") == "0 0 100 80"


def test_an_arrow_ends_at_its_last_point() -> None:
    drawing = Drawing(100, 80, "")
    drawing.arrow((10, 10), (10, 40), (50, 40))
    line, head = drawing.shapes
    assert 'points="10,10 10,40 43,40"' in line
    assert 'points="50,40 ' in head


def test_a_tile_has_a_path_for_each_grey() -> None:
    drawing = Drawing(100, 80, "")
    drawing.tile(5, 6, 20, [[0.0, 1.0], [0.0, 7.0]])
    assert sum("<path" in shape for shape in drawing.shapes) == 2
    assert '<path fill="#000000" d="M0 0h1v1h-1zM0 1h1v1h-1z"/>' in drawing.shapes


@pytest.mark.parametrize(("scheme", "colours"), [("default", LIGHT), ("slate", DARK)])
def test_the_style_sheet_has_the_colours(scheme: str, colours: dict[str, str]) -> None:
    text = SHEET.read_text(encoding="utf-8")
    block = re.search(rf'\[data-md-color-scheme="{scheme}"\] \.diagram {{(.*?)}}', text, re.S)
    assert block
    assert dict(re.findall(r"--(\w+): (#\w+);", block[1])) == colours


def test_words_stand_out_in_both_palettes() -> None:
    """The contrast that WCAG asks of small text, 4.5, of words on every ground."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colours in (LIGHT, DARK):
        for ground in ("plain", "mix", "dense", "told", "paper"):
            pair = sorted([luminance(colours["ink"]), luminance(colours[ground])])
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, ground
