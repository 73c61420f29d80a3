"""Drawn images: the same design at every size, whole, exact, and a function of the index."""

import dataclasses
import math

import numpy as np
import pytest

from convflow.data.check import check_images
from convflow.data.loader import Images
from convflow.data.shapes import (
    MARGIN,
    RADII,
    SHAPES,
    DrawnShapes,
    coverage,
    draw_design,
)
from convflow.data.source import Source, SyntheticSource
from convflow.data.sources import open_source
from convflow.types import InputError

PINNED = (
    (0.20832974215961628, 0.9097358685135327, 0.9103113300745469, 4.384477611728621),
    [[102, 109, 104], [94011, 109344, 104100]],
)
NAMES = ("disc", "square", "triangle", "star", "ring", "cross")
LABELS = range(len(SHAPES))


def grid(half, step=1.0):
    """Distance and angle of the pixels' centres in a square from -half to half."""
    along = np.arange(-half + step / 2, half, step)
    return np.hypot(along, along[:, None]), np.arctan2(along[:, None], along)


def silhouette(design, size):
    """White on black, in [0, 1]."""
    plain = dataclasses.replace(design, colour=np.ones(3), ground=np.zeros((2, 3)))
    return draw_design(plain, size)[..., 0] / 255


def test_what_there_is():
    train, test = open_source("shapes"), open_source("shapes", split="test")
    assert isinstance(train, Source)
    assert isinstance(train, SyntheticSource)
    validation = open_source("shapes", split="val")
    assert (len(train), len(validation), len(test)) == (50_000, 10_000, 10_000)
    assert train.class_names == NAMES
    assert np.bincount([train.label(i) for i in range(600)]).tolist() == [100] * 6
    assert train.item_name(9) == "star 9"
    assert train.read(9).size == (32, 32)


def test_every_split_has_designs_of_its_own():
    angles = [DrawnShapes(split).design(4).angle for split in ("train", "validation", "test")]
    assert len(set(angles)) == 3
    assert DrawnShapes("valid").design(4).angle == angles[1]


def test_a_picture_is_a_function_of_its_index():
    """Pinned: a change of these numbers changes every training and every reference."""
    design = DrawnShapes().design(3)
    assert (design.radius, *design.place, design.angle) == pytest.approx(PINNED[0], rel=1e-12)
    assert np.array_equal(DrawnShapes().draw(3, (48, 32)), DrawnShapes().draw(3, (48, 32)))
    shown = np.asarray(DrawnShapes().draw(3, (32, 32)), np.int64)
    assert [shown[0, 0].tolist(), shown.sum(axis=(0, 1)).tolist()] == PINNED[1]


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("angle", [0.0, 0.3])
def test_coverage_is_the_share_of_the_pixel(label, angle):
    """Against counting fine points inside the outline, which is coverage without its clamp."""
    distance, direction = grid(12, 1 / 16)
    fine = coverage(label, distance, direction - angle, 10.0) >= 0.5
    share = fine.reshape(24, 16, 24, 16).mean(axis=(1, 3))
    distance, direction = grid(12)
    error = np.abs(coverage(label, distance, direction - angle, 10.0) - share)
    assert error.max() < 0.3  # at tips and dents, where two edges share a pixel
    assert error.mean() < 0.005


@pytest.mark.parametrize("label", LABELS)
def test_outlines_have_their_area_and_reach(label):
    distance, angle = grid(1.05, 1 / 400)
    inside = coverage(label, distance * 1000, angle, 1000.0) > 0.5
    assert inside.mean() * 2.1**2 == pytest.approx(SHAPES[label].area, rel=2e-3)
    assert distance[inside].max() == pytest.approx(1, abs=5e-3)
    assert all(math.hypot(a, b) == pytest.approx(1) for a, b, _ in SHAPES[label].lines)


@pytest.mark.parametrize(("label", "folds"), [(1, 4), (2, 3), (3, 5), (5, 4)])
def test_a_turn_by_one_tip_changes_nothing_and_half_of_it_does(label, folds):
    distance, angle = grid(12)
    angles = [angle - 0.2 - part * math.pi / folds for part in (0, 1, 2)]
    turned = [coverage(label, distance, turn, 10.0) for turn in angles]
    assert np.allclose(turned[0], turned[2])
    assert np.abs(turned[0] - turned[1]).max() > 0.5
    assert turned[0].shape == (24, 24)


def test_the_first_tip_points_along_the_angle():
    design = dataclasses.replace(DrawnShapes().design(2), angle=math.pi / 2)
    cover = silhouette(design, (32, 32))  # down, as rows run down
    rows = np.nonzero(cover.max(axis=1) > 0.5)[0]
    assert cover[rows[0]].sum() > 3 * cover[rows[-1]].sum()


@pytest.mark.parametrize("size", [(32, 32), (64, 32), (24, 96)])
def test_the_whole_object_is_inside_at_any_ratio(size):
    source = DrawnShapes()
    for index in range(60):
        design = source.design(index)
        assert RADII[0] <= design.radius <= RADII[1]
        covered = silhouette(design, size) > 0
        rows, columns = np.nonzero(covered)
        least = math.floor(MARGIN * min(size) - 0.5)
        assert min(rows.min(), columns.min()) >= least
        assert rows.max() < size[0] - least
        assert columns.max() < size[1] - least
        assert covered.sum() > 0.9 * SHAPES[design.label].area * (design.radius * min(size)) ** 2


def test_places_fill_a_long_picture():
    middles = []
    for index in range(200):
        design = DrawnShapes("test").design(index)
        middles.append(design.place)
    low, high = np.quantile(middles, [0.05, 0.95], axis=0)
    assert (low < 0.1).all()
    assert (high > 0.9).all()


def test_one_design_at_every_size():
    source = DrawnShapes()
    for index in range(12):
        large = np.asarray(source.draw(index, (128, 128)), float)
        halved = large.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
        small = np.asarray(source.draw(index, (32, 32)), float)
        assert np.abs(halved - small).mean() < 0.6
        # The object keeps its share of the shorter side: half the share of an image twice as long.
        areas = []
        for size in ((64, 64), (128, 64)):
            areas.append(silhouette(source.design(index), size).sum())
        assert areas[0] == pytest.approx(areas[1], rel=0.01)


def test_objects_stand_out_from_a_soft_ground():
    for index in range(200):
        design = DrawnShapes().design(index)
        assert design.colour.min() >= 0
        assert design.colour.max() <= 1
        assert np.abs(design.colour - design.ground).max(axis=1).min() > 0.25
        assert np.linalg.norm(design.colour - design.ground, axis=1).min() > 0.35
        assert np.linalg.norm(design.ground[0] - design.ground[1]) < 0.3


def test_a_look_at_all_draws_one(monkeypatch):
    source, drawn = DrawnShapes("test"), []
    draw = source.draw
    monkeypatch.setattr(source, "draw", lambda *at: drawn.append(at) or draw(*at))
    report, good = check_images(source, channels=3, size=(48, 32))
    assert drawn == [(0, (48, 32))]
    assert good.tolist() == list(range(10_000))
    assert report.per_class["disc"] == 1667
    assert str(report).startswith("10,000 images, 48x32 (height x width); 10,000 drawn\n6 classes")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_training_sees_them_at_its_own_size(channels):
    images = Images(DrawnShapes(), np.array([5, 8]), channels=channels, size=(40, 24))
    pixels, labels = images.batch(np.array([1]))
    wanted = DrawnShapes().draw(8, (40, 24)).convert("L" if channels == 1 else "RGB")
    assert np.array_equal(pixels[0].permute(1, 2, 0).numpy().squeeze(), np.asarray(wanted))
    assert labels.tolist() == [2]


def test_what_is_refused():
    with pytest.raises(InputError, match=r"expected a split of shapes \(train, validation, test\)"):
        DrawnShapes("unlabeled")
    with pytest.raises(InputError, match=r"expected a number in 0\.\.9999 of shapes, got 10000"):
        DrawnShapes("test").read(10_000)
    with pytest.raises(InputError, match="at least 1x1 pixels, got 0x8"):
        DrawnShapes().draw(0, (0, 8))
