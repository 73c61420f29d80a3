"""The committed diagrams are those that the script draws, and their words fit into their boxes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from scripts.site.diagrams import DIAGRAMS, IMAGES

MOST_OF_A_LETTER = 0.62
"""Width of an average letter, in sizes of the font, at most."""


@pytest.mark.parametrize("name", DIAGRAMS)
def test_the_file_is_what_the_script_draws(name: str) -> None:
    committed = (IMAGES / f"{name}.svg").read_text(encoding="utf-8")
    assert committed == DIAGRAMS[name]().svg(), "run python scripts/site/diagrams.py"


def test_no_file_is_left_over() -> None:
    assert {path.stem for path in IMAGES.glob("*.svg")} == {*DIAGRAMS}


@pytest.mark.parametrize("name", DIAGRAMS)
def test_words_fit_into_the_picture(name: str) -> None:
    """Judged by the number of letters; the pictures were looked at besides."""
    drawing = DIAGRAMS[name]()
    root = ET.fromstring(drawing.svg())
    texts = [node for node in root.iter() if node.tag.endswith("text")]
    assert texts
    for node in texts:
        found = re.search(r"font-size:([\d.]+)px", node.get("style", ""))
        assert found
        width = MOST_OF_A_LETTER * float(found[1]) * len(node.text or "")
        x, anchor = float(node.get("x", "nan")), node.get("text-anchor")
        left = x - {"start": 0, "middle": width / 2, "end": width}[anchor or ""]
        assert left >= 0, node.text
        assert left + width <= drawing.width, node.text
        assert 0 < float(node.get("y", "nan")) < drawing.height, node.text
