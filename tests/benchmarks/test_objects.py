"""What images of `shapes` show, against what was drawn; and images that are none."""

import dataclasses

import numpy as np
import pytest
import torch

from benchmarks.quality.objects import (
    MISFIT,
    ObjectScores,
    find_objects,
    misfit,
    recognize,
    score_objects,
)
from convflow.data.shapes import SHAPES, DrawnShapes, draw_design
from convflow.types import InputError

SIZES = [(32, 32), (48, 48), (64, 64), (64, 32), (96, 32)]
NUM = 120
LABELS = torch.arange(NUM) % len(SHAPES)


def drawn(size, num=NUM, start=3000):
    """Images (num, 3, H, W) of the test split, their classes in turn."""
    source = DrawnShapes("test")
    pixels = np.stack([np.asarray(source.draw(start + i, size)) for i in range(num)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def blurred(pixels, deviation=0.5):
    """The images after a Gaussian filter of `deviation` pixels."""
    taps = torch.exp(-0.5 * (torch.arange(-2.0, 3.0) / deviation) ** 2)
    kernel = (taps[:, None] * taps / taps.sum() ** 2).expand(3, 1, 5, 5)
    wide = torch.nn.functional.pad(pixels.float(), (2, 2, 2, 2), mode="replicate")
    return torch.nn.functional.conv2d(wide, kernel, groups=3).round().to(torch.uint8)


def noisy(pixels, levels=8.0):
    """The images with Gaussian noise."""
    noise = levels * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    return (pixels + noise).round().clamp(0, 255).to(torch.uint8)


def silhouette(design, size):
    """(H, W, 1) in [0, 1]: where the object is."""
    plain = dataclasses.replace(design, colour=np.ones(3), ground=np.zeros((2, 3)))
    return draw_design(plain, size)[..., :1] / 255


def two_in_one(index, size):
    """An image with an object in each half, upper and lower."""
    first, second = DrawnShapes().design(index), DrawnShapes("test").design(5 * index + 1)
    half = (size[0] // 2, size[1])
    covers = np.concatenate([silhouette(first, half), silhouette(second, half)])
    colours = np.repeat([first.colour, second.colour], half[0], axis=0)[:, None]
    ground = draw_design(dataclasses.replace(first, radius=0.0), size)
    return np.rint(ground * (1 - covers) + 255 * colours * covers).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_real_pictures_show_what_was_drawn(size):
    scores = score_objects(drawn(size), LABELS)
    assert scores.num == NUM
    assert scores.one >= 0.995
    assert scores.right >= 0.98
    assert scores.mean_count == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("size", [(32, 32), (96, 32)])
@pytest.mark.parametrize("spoil", [noisy, blurred, lambda pixels: noisy(blurred(pixels))])
def test_slight_noise_and_blur_are_forgiven(spoil, size):
    assert score_objects(spoil(drawn(size)), LABELS).right >= 0.95


@pytest.mark.parametrize("size", [(64, 32), (96, 48), (64, 64)])
def test_two_pasted_objects_are_two(size):
    pixels = np.stack([two_in_one(i, size) for i in range(40)])
    count, cover = find_objects(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert count.tolist() == [2] * 40
    assert cover.abs().max() == 0
    assert recognize(cover).tolist() == [-1] * 40


def test_a_tile_of_four_pictures_shows_four():
    pixels = drawn((32, 32), 8)
    tiles = torch.cat([torch.cat([pixels, pixels.flip(3)], 2)] * 2, 3)
    scores = score_objects(tiles, LABELS[:8])
    assert (scores.one, scores.right) == (0, 0)
    assert scores.mean_count == pytest.approx(4, abs=0.3)  # grounds do not fit at the seams


def test_scores_of_other_labels_and_of_some_pairs():
    one, two = drawn((64, 32), 6), np.stack([two_in_one(i, (64, 32)) for i in range(2)])
    pixels = torch.cat([one, torch.from_numpy(two).permute(0, 3, 1, 2)])
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 0, 1])
    assert score_objects(pixels, labels) == ObjectScores(8, one=0.75, right=0.625, mean_count=1.25)


def test_the_cover_is_that_of_the_object():
    source, size = DrawnShapes("test"), (48, 32)
    cover = find_objects(drawn(size)).covers.numpy()
    wanted = np.stack([silhouette(source.design(3000 + i), size)[..., 0] for i in range(NUM)])
    assert np.abs(cover - wanted).mean() < 0.003
    assert np.abs(cover - wanted).max() < 0.3


def test_another_place_size_turn_and_colour_is_the_same_class():
    source = DrawnShapes()
    for index in range(6):
        design, found = source.design(index), []
        for step in range(8):
            changed = dataclasses.replace(
                design,
                radius=0.2 + 0.02 * step,
                angle=design.angle + 0.3 * step,
                place=(step / 7, 1 - step / 7),
                colour=np.roll(design.colour, step),
            )
            found.append(draw_design(changed, (40, 56)))
        pixels = torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)
        assert recognize(find_objects(pixels).covers).tolist() == [index] * 8


def bodies():
    """Single things, (6, 64, 64), of none of the classes."""
    y, x = np.mgrid[:64, :64] - 31.5
    distance = np.hypot(x, y)
    halved = [np.hypot(x / 2, y) - 11, np.maximum(distance - 18, x)]
    bars = [np.maximum(abs(x) - 20, abs(y) - 5), np.maximum(abs(x) - 18, abs(y) - 11)]
    pairs = [
        np.minimum(np.hypot(x - 9, y) - 10, np.hypot(x + 9, y) - 10),
        np.maximum(np.maximum(distance - 18, 10 - distance), abs(y) - x),
    ]
    return np.clip(0.5 - np.stack([*halved, *bars, *pairs]), 0, 1)


def test_a_body_that_is_no_class_is_one_object_and_none_of_them():
    ground, colour = np.full(3, 90.0), np.array([230.0, 60.0, 60.0])
    pixels = np.rint(ground + bodies()[..., None] * (colour - ground)).astype(np.uint8)
    count, cover = find_objects(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert count.tolist() == [1] * 6
    assert recognize(cover).tolist() == [-1] * 6
    assert (misfit(cover.numpy()).min(axis=1) > MISFIT).all()


def test_nothing_and_specks_are_no_objects():
    pixels = torch.full((3, 3, 32, 32), 120, dtype=torch.uint8)
    pixels[1, 0, 5:8, 5:8] = 255  # nine pixels; a hundredth of the square are ten
    pixels[2, 0, 5:8, 5:9] = 255
    assert find_objects(pixels).counts.tolist() == [0, 0, 1]
    assert find_objects(noisy(pixels)).counts.tolist() == [0, 0, 1]
    assert find_objects(pixels[:0]).counts.shape == (0,)


@pytest.mark.parametrize("kind", ["spiral", "comb", "diagonal", "checks"])
def test_parts_connect_along_any_path(kind):
    mask = np.zeros((40, 40), bool)
    wanted = 1
    if kind == "spiral":
        top, left, bottom, right = 4, 4, 36, 36
        while bottom - top > 8:
            mask[top, left:right] = mask[top:bottom, right - 1] = True
            mask[bottom - 1, left + 2 : right] = mask[top + 4 : bottom, left + 2] = True
            mask[top + 4, left + 2 : left + 5] = True
            top, left, bottom, right = top + 4, left + 4, bottom - 4, right - 4
    elif kind == "comb":
        mask[4:36, 4:36:4] = True
        mask[4, 4:36] = True
    elif kind == "diagonal":
        np.fill_diagonal(mask[3:37, 3:37], True)
    else:
        wanted = 4
        for top, left in ((4, 4), (4, 24), (24, 4), (24, 24)):
            mask[top : top + 9, left : left + 9] = True
    pixels = np.where(mask, 240, 100).astype(np.uint8)
    found = find_objects(torch.from_numpy(pixels).expand(2, 3, 40, 40))
    assert found.counts.tolist() == [wanted] * 2


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("labels", [[0], [0, 6], [-1, 2]])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(InputError, match=r"a label in 0\.\.5 for each, got 2 images"):
        score_objects(drawn((32, 32), 2), torch.tensor(labels))


def test_what_else_is_refused():
    with pytest.raises(InputError, match="got 0 images"):
        score_objects(drawn((32, 32), 1)[:0], LABELS[:0])
    with pytest.raises(InputError, match="at least 16x16, got 8x32"):
        find_objects(torch.zeros(1, 3, 8, 32, dtype=torch.uint8))
