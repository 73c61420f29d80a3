"""One image of titled panels in two columns: what the demos draw."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from convflow.types import InputError

PANEL_ROOM, PANEL_GAP, TITLE_SIZE = 30, 16, 15
"""Pixels: for a title above its panel, between panels, and the height of letters."""
INK, PAPER = (20, 20, 20), (255, 255, 255)


def lay_out(panels: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Return titled panels on one page, two in a row; in colour where one of them is.

    Args:
        panels: titles and images, the first at the top left; the last may be alone in its row.

    Raises:
        InputError: no panels.
    """
    if not panels:
        raise InputError("expected panels to lay out, got none; give at least one")
    font = ImageFont.load_default(size=TITLE_SIZE)
    rows = [panels[i : i + 2] for i in range(0, len(panels), 2)]
    widths = [
        max(max(image.width, round(font.getlength(title))) for title, image in column)
        for column in (panels[0::2], panels[1::2])
        if column
    ]
    heights = [PANEL_ROOM + max(image.height for _, image in row) for row in rows]
    lefts, tops = (
        list(itertools.accumulate(sides, lambda at, side: at + side + PANEL_GAP, initial=PANEL_GAP))
        for sides in (widths, heights)
    )
    grey = all(image.mode == "L" for _, image in panels)
    page = Image.new("RGB", (lefts[-1], tops[-1]), PAPER)
    draw = ImageDraw.Draw(page)
    for top, row in zip(tops, rows, strict=False):
        for left, (title, image) in zip(lefts, row, strict=False):
            draw.text((left, top), title, fill=INK, font=font)
            page.paste(image, (left, top + PANEL_ROOM))
    return page.convert("L") if grey else page
