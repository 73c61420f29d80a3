"""Many images as one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convflow.data.grid import tile, to_picture
from convflow.types import InputError


def images_of(count: int, channels: int = 1, height: int = 2, width: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@given(
    *(st.integers(1, 7), st.sampled_from([1, 3]), st.integers(1, 3), st.integers(1, 4)),
    *(st.integers(1, 3), st.integers(0, 3), st.integers(1, 9)),
)
def test_every_image_is_at_its_place(count, channels, height, width, zoom, gap, columns):
    images = images_of(count, channels, height, width)
    page = np.asarray(tile(images, columns=columns, zoom=zoom, gap=gap, background=9))
    page = page.reshape(*page.shape[:2], channels).copy()
    columns = min(columns, count)
    rows = -(-count // columns)
    high, wide = height * zoom + gap, width * zoom + gap
    assert page.shape[:2] == (rows * high + gap, columns * wide + gap)
    for i, image in enumerate(images):
        top, left = (i // columns) * high + gap, (i % columns) * wide + gap
        place = page[top : top + height * zoom, left : left + width * zoom]
        for y, x in np.ndindex(place.shape[:2]):
            assert place[y, x].tolist() == image[:, y // zoom, x // zoom].tolist()
        place[:] = 9
    assert (page == 9).all(), "the rest is background"


@pytest.mark.parametrize(
    ("count", "columns"), [(1, 1), (2, 2), (3, 2), (4, 2), (5, 3), (9, 3), (10, 4), (16, 4)]
)
def test_a_page_is_about_square(count, columns):
    assert tile(images_of(count), gap=0).width == 3 * columns


def test_one_picture():
    grey, colour = images_of(1)[0], images_of(1, 3)[0]
    assert (to_picture(grey).mode, to_picture(colour).mode) == ("L", "RGB")
    assert np.array_equal(np.asarray(to_picture(grey)), grey[0].numpy())
    assert np.array_equal(np.asarray(to_picture(colour)), colour.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("images", "options"),
    [
        (images_of(0), {}),
        (images_of(2, 4), {}),
        (images_of(2), {"columns": 0}),
        (images_of(2), {"zoom": 0}),
        (images_of(2), {"gap": -1}),
    ],
)
def test_a_page_that_cannot_be_is_refused(images, options):
    with pytest.raises(InputError, match="expected at least one image of 1 or 3 channels"):
        tile(images, **options)
