"""Both resizes against slow and independent twins: loops, and Pillow itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from convflow.evaluation.resize import resize_as_pillow, resize_as_tensorflow, to_colour
from convflow.types import InputError
from tests.tolerance import GOLDEN, assert_close_rms

SIZES = [
    ((48, 64), (299, 299)),
    ((400, 350), (299, 299)),
    ((32, 32), (64, 16)),
    ((7, 9), (7, 5)),
    ((1, 2), (5, 5)),
    ((23, 13), (299, 299)),
]


def random_images(size, batch=2, channels=3):
    return torch.rand(batch, channels, *size) * 255


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_tensorflow_against_its_formula(old, new):
    images = random_images(old, batch=1, channels=1)
    source, expected = images[0, 0].double().numpy(), np.zeros(new)
    places = [
        np.arange(n, dtype=np.float32) * (np.float32(o) / np.float32(n))
        for o, n in zip(old, new, strict=True)
    ]
    for i, y in enumerate(places[0]):
        for j, x in enumerate(places[1]):
            top, left = int(y), int(x)
            below, right = min(top + 1, old[0] - 1), min(left + 1, old[1] - 1)
            dy, dx = float(y) - top, float(x) - left
            expected[i, j] = (1 - dy) * ((1 - dx) * source[top, left] + dx * source[top, right])
            expected[i, j] += dy * ((1 - dx) * source[below, left] + dx * source[below, right])
    actual = resize_as_tensorflow(images, new)
    assert_close_rms(actual[0, 0], torch.from_numpy(expected), torch.float32)


def test_tensorflow_is_neither_of_torchs_bilinear_resizes():
    images = random_images((48, 64))
    actual = resize_as_tensorflow(images, (299, 299))
    for corners in (False, True):
        other = F.interpolate(images, (299, 299), mode="bilinear", align_corners=corners)
        assert (actual - other).abs().max() > 1


def test_the_same_size_changes_nothing():
    images = random_images((299, 299), batch=1)
    assert resize_as_tensorflow(images, (299, 299)).equal(images)


@pytest.mark.parametrize(("old", "new"), [*SIZES, ((300, 500), (224, 224)), ((40, 30), (224, 224))])
def test_pillow_against_pillow(old, new):
    images = random_images(old)
    expected = [
        [
            np.asarray(Image.fromarray(plane.numpy()).resize(new[::-1], Image.Resampling.BICUBIC))
            for plane in image
        ]
        for image in images
    ]
    # torch computes the weights of the filter in float32, Pillow in float64.
    assert_close_rms(
        resize_as_pillow(images, new), torch.from_numpy(np.array(expected)), limit=GOLDEN
    )


def test_pillows_filter_is_antialiased_and_not_rounded():
    images = random_images((300, 500)).round()
    actual = resize_as_pillow(images, (224, 224))
    other = F.interpolate(images, (224, 224), mode="bicubic", align_corners=False)
    assert (actual - other).abs().max() > 10
    assert (actual - actual.round()).abs().max() > 0.4


def test_colour():
    grey = torch.randint(256, (2, 1, 4, 5), dtype=torch.uint8)
    assert to_colour(grey).equal(torch.cat([grey, grey, grey], dim=1))
    colour = torch.randint(256, (2, 3, 4, 5), dtype=torch.uint8)
    assert to_colour(colour).equal(colour)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (3, 8, 8), (0, 3, 8, 8), (2, 3, 0, 8)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError, match=r"expected uint8 images \(B, 1 or 3, H, W\), got"):
        to_colour(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.usefixtures("unchecked")
def test_floats_are_refused():
    with pytest.raises(InputError, match=r"got torch\.float32 \(2, 3, 8, 8\); convert them"):
        to_colour(torch.zeros(2, 3, 8, 8))
