"""Pixels by index, the order as a function of the position, and batches ahead of time."""

import io
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from PIL import Image

from convflow.data.images import resize_and_crop
from convflow.data.loader import Images, Order, batches
from convflow.data.source import StoredSource
from convflow.types import InputError


def source_of(count=10, names=("a", "b"), size=(6, 4)):
    """Images whose first column is their number, and whose other columns are 200."""
    reads = []

    def fetch(index):
        reads.append(index)
        pixels = np.full((size[1], size[0]), 200, np.uint8)
        pixels[:, 0] = index % 200
        return Image.fromarray(pixels)

    labels = np.arange(count) % max(len(names), 1)
    source = StoredSource("some", names, labels, "item{}".format, fetch)
    source.reads = reads
    return source


def images_of(count=10, **options):
    options = {"channels": 1, "size": (4, 6)} | options
    return Images(source_of(count), np.arange(count), **options)


@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_pixels_labels_and_flips(cache_bytes):
    source = source_of()
    chosen = np.array([9, 7, 5])
    images = Images(source, chosen, channels=3, size=(4, 6), cache_bytes=cache_bytes)
    assert (len(images), len(images.class_names), images.shape) == (3, 2, (3, 4, 6))
    assert images.labels.tolist() == [1, 1, 1]
    assert images.item_name(1) == "item7"
    for _ in range(2):
        pixels, labels = images.batch(np.array([2, 0, 2]), np.array([False, True, True]))
        assert (pixels.shape, pixels.dtype, labels.dtype) == (
            (3, 3, 4, 6),
            torch.uint8,
            torch.int64,
        )
        assert pixels.is_contiguous()
        assert pixels[0, 2, 3].tolist() == [5] + [200] * 5
        assert pixels[1, 0, 0].tolist() == [200] * 5 + [9]
        assert pixels[2, 1, 1].tolist() == [200] * 5 + [5]
    if cache_bytes:
        assert sorted(source.reads) == [5, 9]
    assert images.batch(np.array([2]))[0][0, 0, 0].tolist() == [5] + [200] * 5


def test_unconditional():
    images = Images(source_of(names=()), np.arange(10), channels=1, size=(4, 6))
    assert images.class_names == ()
    assert images.batch(np.arange(3))[1].tolist() == [0, 0, 0]


def test_the_fingerprint_knows_names_labels_and_order():
    kept = images_of(4)
    assert kept.fingerprint == images_of(4).fingerprint
    names = tuple(kept.class_names)
    others = [Images(source_of(names=(*names[:-1], "zz")), np.arange(4), channels=1, size=(4, 6))]
    others += [
        Images(source_of(names=names), np.array(order), channels=1, size=(4, 6))
        for order in ([0, 1, 2], [0, 1, 3, 2], [0, 1, 2, 5])
    ]
    assert len({images.fingerprint for images in (kept, *others)}) == 5


def test_an_unreadable_picture_is_named():
    source = source_of()
    source.fetch = lambda index: b"text"
    images = Images(source, np.array([3]), channels=1, size=(4, 6))
    with pytest.raises(InputError, match=r"^item3: expected a readable .*--data.on-bad skip"):
        images.batch(np.array([0]))


@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_the_next_readable_picture_takes_the_place_of_a_bad_one(caplog, cache_bytes):
    source = source_of()
    fetch, bad = source.fetch, {2, 3, 9}
    source.fetch = lambda index: b"text" if index in bad else fetch(index)
    options = {"channels": 1, "size": (4, 6), "cache_bytes": cache_bytes, "on_bad": "skip"}
    indices = np.array([0, 2, 3, 4, 5, 9])
    images = Images(source, indices, **options)
    images.labels = np.arange(6)
    for _ in range(2):
        pixels, labels = images.batch(np.arange(6))
        assert pixels[:, 0, 0, 0].tolist() == [0, 4, 4, 4, 5, 0]
        assert labels.tolist() == [0, 3, 3, 3, 4, 0]
    assert images.batch(np.array([5]))[1].tolist() == [0]  # in whatever batch
    assert images.replaced == {1: 3, 2: 3, 5: 0}
    lines = sorted(caplog.messages)
    assert len(lines) == 3
    assert "item2: expected a readable image, got bytes of no known image format; " in lines[0]
    assert lines[0].endswith("item4 is shown in its place")
    bad.update(range(10))
    with pytest.raises(InputError, match=r"^item0: .* is the disk still there\?"):
        Images(source, indices, **options).batch(np.array([0]))


def test_every_epoch_is_a_new_permutation():
    order = Order(50, seed=3, flip=True)
    epochs = [order.at(50 * e, 50)[0] for e in range(4)]
    for indices in epochs:
        assert sorted(indices) == list(range(50))
    assert len({tuple(indices) for indices in epochs}) == 4
    assert not np.array_equal(epochs[0], Order(50, seed=4, flip=True).at(0, 50)[0])


@given(
    count=some.integers(1, 40),
    seed=some.integers(0, 2**40),
    cuts=some.lists(some.integers(0, 130), min_size=1, max_size=4),
    start=some.integers(0, 10**9),
)
def test_the_order_is_a_function_of_the_position(count, seed, cuts, start):
    whole = Order(count, seed, True).at(start, 130)
    order, edges = Order(count, seed, True), sorted({0, 130, *cuts})
    parts = [order.at(start + a, b - a) for a, b in pairwise(edges)]
    for index in (0, 1):
        assert np.array_equal(np.concatenate([part[index] for part in parts]), whole[index])


def test_small_sets_repeat_within_a_batch():
    indices, flips = Order(3, seed=0, flip=True).at(0, 9)
    assert np.bincount(indices).tolist() == [3, 3, 3]
    assert flips.dtype == np.bool_


def test_flips_are_half_and_independent_of_the_order():
    order = Order(4000, seed=1, flip=True)
    indices, flips = order.at(0, 4000)
    assert abs(flips.mean() - 0.5) < 0.05
    assert abs(np.corrcoef(indices, flips)[0, 1]) < 0.06
    assert not np.array_equal(flips, order.at(4000, 4000)[1])
    assert not Order(10, seed=1, flip=False).at(0, 10)[1].any()
    assert np.array_equal(Order(4000, seed=1, flip=False).at(0, 4000)[0], indices)


def test_the_order_never_changes():
    """Recorded numbers: a resumed run on another machine or NumPy must see the same order."""
    indices, flips = Order(10, seed=7, flip=True).at(5, 10)
    assert indices.tolist() == [2, 8, 7, 5, 1, 1, 3, 2, 7, 8]
    assert flips.astype(int).tolist() == [0, 1, 1, 1, 0, 1, 1, 0, 1, 1]


def test_long_seeds_and_epochs_meet_no_short_ones():
    """Side by side as 32-bit words, seed 7 + 3 * 2^32 was seed 7 three epochs later."""
    large = Order(50, 7 + (3 << 32), True)
    epochs = [Order(50, 7, True).at(50 * epoch, 50)[0].tolist() for epoch in (3, 0, 3 << 32)]
    assert large.at(0, 50)[0].tolist() not in epochs
    assert len({tuple(order) for order in epochs}) == 3


def test_the_global_generator_is_left_alone():
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    Order(10, 0, True).at(0, 30)
    images_of(size=(4, 3)).batch(np.arange(10))
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (3, -1)])
def test_order_refuses(count, seed):
    with pytest.raises(InputError, match="count >= 1 and seed >= 0"):
        Order(count, seed, False)


def test_batches_follow_the_order():
    images, order = images_of(), Order(10, seed=0, flip=True)
    stream = batches(images, order, 7, 4)
    for step in range(6):
        pixels, labels, indices, total, full, there, _ = next(stream)
        assert there is None
        wanted, flips = order.at(7 + 4 * step, 4)
        assert total == full == 4
        assert np.array_equal(indices, wanted)
        assert torch.equal(pixels, images.batch(wanted, flips)[0])
        assert torch.equal(labels, torch.from_numpy(images.labels[wanted]))
    stream.close()


def test_shares_make_up_the_batch():
    images, order = images_of(), Order(10, seed=0, flip=True)
    whole = next(batches(images, order, 0, 6))
    shares = [next(batches(images, order, 0, 6, share=slice(rank, None, 2))) for rank in range(2)]
    for rank, share in enumerate(shares):
        assert share.total == whole.total == 6
        for part, all_rows in zip(share[:3], whole[:3], strict=True):
            assert np.array_equal(part, all_rows[rank::2])


def decoding_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_the_next_batches_are_made_ahead_and_closing_ends_the_threads():
    source = source_of(1000)
    images = Images(source, np.arange(1000), channels=1, size=(4, 6))
    before = len(decoding_threads())
    stream = batches(images, Order(1000, 0, False), 0, 10, prefetch=3)
    next(stream)
    deadline = time.monotonic() + 10
    while len(source.reads) < 40 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(source.reads) == 40  # the one taken, and three ahead
    stream.close()
    assert len(decoding_threads()) == before


def test_an_error_in_the_thread_reaches_the_consumer():
    source = source_of()
    images = Images(source, np.arange(10), channels=1, size=(4, 6))
    source.fetch = lambda index: b"text"
    stream = batches(images, Order(10, 0, False), 0, 4)
    with pytest.raises(InputError, match="item"):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)
    assert not decoding_threads()


@pytest.mark.parametrize("cache_bytes", [0, 100, 2**20])
def test_other_sizes_and_random_crops(cache_bytes):
    source = source_of(size=(12, 6))
    images = Images(
        source, np.arange(10), channels=1, size=(6, 6), crop=(1, 1), cache_bytes=cache_bytes
    )
    for _ in range(2):
        left, right, middle = (
            images.batch(np.array([7]), crops=crops)[0][0, 0]
            for crops in (np.zeros((1, 2)), np.full((1, 2), 0.999), None)
        )
        assert left[:, 0].tolist() == [7] * 6
        assert right.min() == middle.min() == 200
        assert images.batch(np.array([7, 8]), size=(3, 6))[0].shape == (2, 1, 3, 6)
    if cache_bytes == 2**20:
        assert sorted(source.reads) == [7, 7, 8]


def test_only_sets_that_fit_are_kept():
    source = source_of()
    images = Images(source, np.arange(10), channels=1, size=(4, 6), cache_bytes=10 * 424 - 1)
    for _ in range(2):
        images.batch(np.arange(10))
    assert len(source.reads) == 20


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_no_pixel(workers):
    images, order = images_of(workers=workers), Order(10, 0, True)
    plain = next(batches(images_of(), order, 0, 30))
    assert torch.equal(next(batches(images, order, 0, 30)).pixels, plain.pixels)


def test_drafts_are_decoded_at_a_part_of_their_size():
    image = Image.fromarray(np.arange(64 * 96, dtype=np.uint8).reshape(64, 96))
    image.save(buffer := io.BytesIO(), "JPEG")
    source = StoredSource("x", (), np.zeros(1, np.int64), str, lambda index: buffer.getvalue())
    whole = Images(source, np.arange(1), channels=1, size=(16, 8)).batch(np.arange(1))[0]
    source.draft = True
    assert [source.read(0, side).size for side in (16, 17, 8, 100)] == [
        (24, 16),
        (48, 32),
        (12, 8),
        (96, 64),
    ]
    draft = Images(source, np.arange(1), channels=1, size=(16, 8)).batch(np.arange(1))[0]
    assert 0 < (whole.float() - draft.float()).abs().mean() < 20


@pytest.mark.parametrize("crop", [None, (1.0, 1.0), (0.5, 1.0)])
def test_a_set_smaller_than_a_batch_is_decoded_once(crop):
    source = source_of(count=8, size=(12, 8))
    images = Images(source, np.arange(8), channels=1, size=(4, 4), crop=crop)
    stream = batches(images, Order(8, 0, True, crop is not None), 0, 32)
    for _ in range(5):
        assert next(stream).pixels.shape == (32, 1, 4, 4)
    stream.close()
    assert len(source.reads) <= 16  # two threads begin at once


def test_parts_of_random_size_are_those_of_the_stored_image():
    pixels = np.arange(16 * 8, dtype=np.uint8).reshape(16, 8)
    source = source_of(count=1)
    source.fetch = lambda index: Image.fromarray(pixels)
    images = Images(source, np.arange(1), channels=1, size=(8, 4), crop=(0.5, 1.0))
    whole, corner = (
        images.batch(np.array([0]), crops=np.array([[0.0, 0.0, large]]))[0][0, 0].numpy()
        for large in (1.0 - 1e-9, 0.0)
    )
    assert np.array_equal(corner, pixels[:8, :4])  # half of the largest side: nothing is resized
    expected = Image.fromarray(pixels).resize((4, 8), Image.Resampling.BICUBIC)
    assert np.abs(whole.astype(int) - np.asarray(expected)).max() <= 1
    middle = images.batch(np.array([0]))[0][0, 0].numpy()
    assert np.array_equal(middle, resize_and_crop(pixels[..., None], (8, 4))[..., 0])
    again = images.batch(np.array([0]), crops=np.array([[0.0, 0.5, 0.3]]), size=(4, 4))
    assert again[0].shape == (1, 1, 4, 4)
