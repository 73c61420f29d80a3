"""Sizes of one budget, which image goes where, and an order that repeats exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from convflow.data.buckets import BucketOrder, Buckets, batch_size_of, bucket_sizes, even_ratios
from convflow.data.loader import Order
from convflow.types import InputError

SIZES = ((16, 8), (8, 8), (8, 16), (16, 16))


def test_the_published_ten_buckets():
    sizes = bucket_sizes(256 * 256, np.linspace(0.5, 3, 10).tolist(), 16)
    published = "176x352 224x288 256x240 288x208 320x192 336x176 368x160 400x160 416x144 432x144"
    assert " ".join(f"{width}x{height}" for height, width in sizes) == published


def test_sizes_keep_the_budget():
    for ratio in even_ratios(0.25, 4, 9):
        ((height, width),) = bucket_sizes(512 * 512, [ratio], 8)
        assert 0.95 * 512**2 < height * width <= 512**2
        assert abs(np.log(width / height / ratio)) < 0.05
    assert bucket_sizes(32 * 32, [1.0], 4) == ((32, 32),)
    assert bucket_sizes(64, [0.9, 1, 1.1], 4) == ((8, 4), (8, 8), (4, 8))


def test_ratios_are_spaced_by_one_factor():
    assert even_ratios(0.5, 2, 3) == pytest.approx([0.5, 1, 2])
    assert even_ratios(2, 2, 1) == [2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: even_ratios(2, 1, 3), "0 < low <= high"),
        (lambda: even_ratios(0.5, 2, 1), "at least 2 buckets"),
        (lambda: bucket_sizes(64, [], 4), "ratios of width to height above 0"),
        (lambda: bucket_sizes(64, [-1], 4), "above 0"),
        (lambda: bucket_sizes(64, [100], 4), "at least 4 pixels, got 0x80"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_pictures_go_to_the_nearest_ratio():
    sides = np.array([[30, 14], [10, 10], [9, 20], [100, 99], [5, 50]])
    buckets = Buckets(SIZES, sides, len(sides))
    where = [{SIZES[i] for i in buckets.members[group]} for group in buckets.groups]
    square, tall, wide = {(8, 8), (16, 16)}, {(16, 8)}, {(8, 16)}
    assert where == [tall, square, wide, square, wide]
    assert buckets.kept == pytest.approx([14 / 15, 1, 0.9, 0.99, 0.2])
    # 16x8 fits into 30x14; of 8x8 and 16x16 the larger counts; 8x16 into 9x20, not into 5x50.
    assert buckets.enlarged.tolist() == [False, True, False, False, True]
    described = buckets.describe()
    assert described[0] == "sizes and their images: 16x8 1, 8x8/16x16 2, 8x16 2"
    assert described[1] == "cut to size they keep 80% of their area, 20% at least"


def test_pictures_without_a_size_go_everywhere():
    order = BucketOrder(Buckets(SIZES, None, 400), 64, 0, False, False)
    seen = {rows.size for rows in epoch_of(order, 8)}
    assert seen == set(SIZES)


def order_of(count, seed=0, crop=True, sizes=SIZES):
    sides = np.random.default_rng(1).integers(5, 30, (count, 2))
    return BucketOrder(Buckets(sizes, sides, count), 64, seed, True, crop)


def epoch_of(order, batch_size, epoch=0):
    """The batches of an epoch."""
    start, found = epoch * order.count, []
    while start < (epoch + 1) * order.count:
        found.append(order.rows(start, batch_size))
        start += len(found[-1].indices)
    return found


@given(count=some.integers(1, 60), seed=some.integers(0, 2**40), batch=some.integers(1, 20))
def test_an_epoch_shows_every_picture_once(count, seed, batch):
    order = order_of(count, seed)
    for epoch in (0, 1):
        rows = epoch_of(order, batch, epoch)
        assert sorted(np.concatenate([each.indices for each in rows])) == list(range(count))
    assert max(len(each.indices) for each in rows) <= order.largest(batch)


def test_a_batch_holds_one_size_and_keeps_the_budget():
    order = order_of(4000)
    for rows in epoch_of(order, 32):
        members = [order.buckets.members[group] for group in order.buckets.groups[rows.indices]]
        assert all(order.buckets.sizes.index(rows.size) in group for group in members)
        height, width = rows.size
        assert 0.9 < len(rows.indices) * height * width / (32 * 64) < 1.1
        assert rows.crops.shape == (len(rows.indices), 4)


@given(count=some.integers(1, 200), batch=some.integers(1, 40))
def test_no_batch_has_more_pixels_than_it_may(count, batch):
    for rows in epoch_of(order_of(count), batch):
        assert len(rows.indices) <= batch_size_of(rows.size, batch, 64)


def mixed_ratios():
    """FlowDCN's ten sizes and 50,000 images, most of them nearly square, few of them wide."""
    sizes = bucket_sizes(256 * 256, np.linspace(0.5, 3, 10).tolist(), 16)
    ratios = np.exp(np.random.default_rng(0).normal(0, 0.3, 50_000))
    return sizes, np.stack([np.full(50_000, 512), 512 * ratios], axis=1)


def lone_panorama():
    return ((256, 256), (144, 432)), np.array([[512, 512]] * 999 + [[200, 600]])


@pytest.mark.parametrize("source_of_sides", [mixed_ratios, lone_panorama])
def test_every_picture_weighs_the_same_in_an_epoch(source_of_sides):
    """A step divides by `full`, an image's loss by its pixels; of these the sizes differ."""
    sizes, sides = source_of_sides()
    order = BucketOrder(Buckets(sizes, sides, len(sides)), 256 * 256, 0, False, False)
    weights, steps, batch_size = np.zeros(len(sides)), np.zeros(len(sides)), 256
    for rows in epoch_of(order, batch_size):
        weights[rows.indices] += batch_size / rows.full * 256 * 256 / np.prod(rows.size)
        steps[rows.indices] += batch_size / len(rows.indices)
    assert np.abs(weights - 1).max() < 0.5 / batch_size  # batches are whole numbers
    assert steps.max() > 2  # what some would weigh, were each step divided by its own length


def test_a_plain_order_is_divided_by_its_own_length():
    assert Order(30, 0, False).rows(28, 8).full is None
    rows = order_of(20).rows(0, 4)
    assert rows.take(slice(0, 1)).full == rows.full == batch_size_of(rows.size, 4, 64)


def test_the_fingerprint_tells_where_pictures_go():
    sides = np.array([[8, 8], [8, 16], [16, 8]])
    first, same, other = (
        BucketOrder(Buckets(SIZES, s, 3), 64, 0, False, False).fingerprint
        for s in (sides, 2 * sides, sides[::-1])
    )
    assert first == same != other
    assert Order(3, 0, False).fingerprint == ""


def test_sizes_of_one_ratio_are_drawn_anew_in_every_epoch():
    order = order_of(500)
    square = np.flatnonzero(order.buckets.groups == 1)
    small = []
    for epoch in range(3):
        rows = epoch_of(order, 8, epoch)
        small.append({i for each in rows if each.size == (8, 8) for i in each.indices})
        assert 0.4 < len(small[-1]) / len(square) < 0.6
    assert len(small[0] & small[1] & small[2]) < 0.2 * len(square)


def test_the_order_never_changes():
    """Recorded numbers: a resumed run on another machine or NumPy must see the same order."""
    rows = order_of(20, seed=7).rows(20, 4)
    assert (rows.size, rows.indices.tolist()) == ((16, 8), [5, 19])
    assert rows.flips.tolist() == [True, True]
    assert rows.crops[:, :2].round(6).tolist() == [[0.717198, 0.829719], [0.680936, 0.642002]]


def test_one_bucket_shows_the_pictures_of_a_plain_order_with_their_turns():
    plain, order = Order(30, 3, True, True), order_of(30, seed=3, sizes=((8, 8),))
    known = plain.rows(0, 30)
    turns = {i: (flip, *at) for i, flip, at in zip(*known[:3], strict=True)}
    for rows in epoch_of(order, 7):
        for i, flip, at in zip(*rows[:3], strict=True):
            assert turns[i] == (flip, *at)
