"""Panels lie two in a row under their titles, without touching."""

import numpy as np
import pytest
from PIL import Image

from convflow.demo.page import PANEL_GAP, PANEL_ROOM, lay_out
from convflow.types import InputError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def panel(colour, size):
    return "t", Image.new("RGB", size, colour)


def test_rows_of_two_and_a_last_one_alone():
    panels = [panel(RED, (40, 30)), panel(GREEN, (50, 20)), panel(BLUE, (60, 10))]
    page = np.asarray(lay_out(panels))
    assert page.shape == (3 * PANEL_GAP + 2 * PANEL_ROOM + 40, 3 * PANEL_GAP + 110, 3)
    top = PANEL_GAP + PANEL_ROOM
    for colour, y, x, (width, height) in (
        (RED, top, PANEL_GAP, (40, 30)),
        (GREEN, top, 2 * PANEL_GAP + 60, (50, 20)),
        (BLUE, 2 * top + 30, PANEL_GAP, (60, 10)),
    ):
        found = (page == colour).all(-1)
        assert found.sum() == width * height
        assert found[y : y + height, x : x + width].all()


def test_a_long_title_makes_room_and_grey_stays_grey():
    title = "a title that is much longer than its panel"
    page = lay_out([(title, Image.new("L", (8, 8), 120)), ("b", Image.new("L", (8, 8), 120))])
    assert page.mode == "L"
    assert page.width > 200
    assert lay_out([panel(RED, (8, 8))]).mode == "RGB"
    with pytest.raises(InputError, match="expected panels to lay out, got none"):
        lay_out([])
