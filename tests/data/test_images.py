"""Any image to uint8, the resizing against known answers, and the check."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from PIL import Image

from convflow.data import images
from convflow.data.files import decode
from convflow.data.images import (
    cover,
    crop,
    is_transparent,
    num_cores,
    piece,
    resize_and_crop,
    shrink,
    to_uint8,
    used_bits,
)
from convflow.types import InputError

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def test_grey_and_colour():
    grey = Image.fromarray(RAMP)
    assert np.array_equal(to_uint8(grey, 1), RAMP[:, :, None])
    assert np.array_equal(to_uint8(grey, 3), np.repeat(RAMP[:, :, None], 3, 2))
    assert to_uint8(Image.new("RGB", (3, 2), (255, 0, 0)), 1).tolist() == [[[76]] * 3] * 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I"])
def test_white_is_white_in_every_mode(mode, channels):
    if mode == "I;16":
        image = Image.fromarray(np.full((2, 3), 65535, np.uint16))
    elif mode == "I":
        image = Image.fromarray(np.full((2, 3), 65535, np.int32))
    else:
        image = Image.new("RGB", (3, 2), "white").convert(mode)
    pixels = to_uint8(image, channels)
    assert (pixels.shape, pixels.dtype) == ((2, 3, channels), np.uint8)
    assert (pixels >= 254).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(tmp_path, mode):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    if mode == "P":
        image.save(tmp_path / "x.gif", transparency=0)
        image = Image.open(tmp_path / "x.gif")
        assert image.mode == "P"
    else:
        image = image.convert(mode)
    assert to_uint8(image, 1).ravel().tolist() == [255, 0]
    assert to_uint8(image, 3).reshape(2, 3).tolist() == [[255] * 3, [0] * 3]


def test_half_transparent_black_is_grey():
    assert to_uint8(Image.new("RGBA", (1, 1), (0, 0, 0, 128)), 1).item() == 127


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bits_are_divided_by_257(tmp_path, order):
    values = np.array([[0, 128, 129, 257, 65535, 32767]], order)
    Image.fromarray(values).save(tmp_path / "x.tif")
    assert to_uint8(Image.open(tmp_path / "x.tif"), 1).ravel().tolist() == [0, 0, 1, 1, 255, 127]
    assert to_uint8(values, 1).ravel().tolist() == [0, 0, 1, 1, 255, 127]


def test_sixteen_bit_png(tmp_path):
    Image.fromarray(np.array([[0, 514, 65535]], np.uint16)).save(tmp_path / "x.png")
    assert to_uint8(Image.open(tmp_path / "x.png"), 1).ravel().tolist() == [0, 2, 255]


def tiff_of_12_bits(values):
    """A grey TIFF of one row, two values in three bytes."""
    bits = "".join(f"{value:012b}" for value in values)
    strip = int(bits, 2).to_bytes(len(bits) // 8, "big")
    tags = {256: len(values), 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1}
    tags |= {279: len(strip), 274: 6}
    body = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    at = 8 + len(strip)
    return b"II*\0" + struct.pack("<I", at) + strip + struct.pack("<H", len(tags)) + body + bytes(4)


def png_of_16_bits(values, significant=None):
    buffer = BytesIO()
    Image.fromarray(np.array([values], np.uint16)).save(buffer, "PNG")
    data = buffer.getvalue()
    if significant is None:
        return data
    chunk = b"sBIT" + bytes([significant])
    return data[:33] + struct.pack(">I", 1) + chunk + zlib.crc32(chunk).to_bytes(4) + data[33:]


TWELVE = [0, 7, 8, 2000, 4095, 1]


@pytest.mark.parametrize(
    ("data", "levels", "used"),
    [
        (tiff_of_12_bits(TWELVE), [0, 0, 0, 125, 255, 0], 0),
        (png_of_16_bits(TWELVE, 12), [0, 0, 0, 125, 255, 0], 0),
        (png_of_16_bits([v * 16 for v in TWELVE], 12), [0, 0, 0, 125, 255, 0], 16),  # PNG's way
        (png_of_16_bits([0, 16, 4080], 12), [0, 0, 16], 12),  # the same, and dark
        (png_of_16_bits(TWELVE), [0, 0, 0, 8, 16, 0], 12),
        (png_of_16_bits([0, 65535], 16), [0, 255], 16),
    ],
)
def test_fewer_bits_than_their_container_are_taken_at_their_word(data, levels, used):
    image = decode(data, ["PNG", "TIFF"])
    assert to_uint8(image, 3)[..., 1].ravel().tolist() == levels
    assert used_bits(image) == used


def test_bits_that_are_used():
    assert used_bits(np.full((2, 2), 4000, np.uint16)) == 12
    assert used_bits(np.zeros((2, 2), np.uint16)) == 1
    assert used_bits(np.full((2, 2), 200, np.uint8)) == used_bits(Image.new("RGB", (2, 2))) == 0
    colour = Image.new("RGB", (2, 2), (15, 3, 3))
    colour.info["depth"] = 16
    assert used_bits(colour) == 12


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_lets_something_through_is_transparent(mode):
    opaque = Image.new("RGBA", (2, 2), (9, 9, 9, 255))
    clear = opaque.copy()
    clear.putpixel((1, 1), (0, 0, 0, 254))
    assert not is_transparent(opaque.convert(mode))
    assert is_transparent(clear.convert(mode))
    assert not is_transparent(np.zeros((2, 2, 4), np.uint8))
    assert not is_transparent(Image.new("RGB", (2, 2)))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_a_damaged_exif_turns_nothing(kind):
    buffer = BytesIO()
    Image.new("RGB", (6, 4)).save(buffer, kind, exif=b"Exif\0\0MM\0\xff\0\0\0\x08")
    assert to_uint8(decode(buffer.getvalue(), (kind,)), 3).shape == (4, 6, 3)


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    Image.new("L", (6, 4), 9).save(tmp_path / "x.jpg", exif=exif)
    assert to_uint8(Image.open(tmp_path / "x.jpg"), 1).shape == (6, 4, 1)


def test_arrays():
    assert to_uint8(np.array([[0.0, 0.5, 1.0]]), 1).ravel().tolist() == [0, 128, 255]
    assert to_uint8(np.array([[False, True]]), 1).ravel().tolist() == [0, 255]
    assert to_uint8(np.zeros((2, 3, 7), np.uint8), 7).shape == (2, 3, 7)


@pytest.mark.parametrize(
    ("image", "channels", "message"),
    [
        (np.zeros((2, 3), np.uint8), 3, r"\(height, width, 3\), got \(2, 3, 1\)"),
        (np.zeros((2, 3, 4), np.uint8), 3, r"got \(2, 3, 4\)"),
        (np.zeros((2, 3), np.int64), 1, "got int64"),
        (np.array([[0.0, 2.0]]), 1, r"\[0, 1\], got 0\.\.2"),
        (np.array([[np.nan]]), 1, "got nan"),
        (Image.fromarray(np.array([[70000]], np.int32)), 1, "0..65535"),
        (Image.fromarray(np.array([[255.0]], np.float32)), 1, r"\[0, 1\], got 255"),
        (Image.new("LAB", (2, 2)), 1, "grey or colour, got mode LAB"),
        (Image.new("L", (2, 2)), 2, "1 or 3 channels"),
    ],
)
def test_refused(image, channels, message):
    with pytest.raises(InputError, match=message):
        to_uint8(image, channels)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("size", [(8, 8), (5, 13), (40, 7), (64, 64)])
def test_constant_stays_constant(size, channels):
    image = np.full((37, 51, channels), 77, np.uint8)
    result = resize_and_crop(image, size)
    assert (result.shape, result.dtype) == ((*size, channels), np.uint8)
    assert (result == 77).all()


def test_same_size_is_untouched():
    image = RAMP[:, :, None]
    assert cover(image, (16, 16)) is image
    assert np.array_equal(resize_and_crop(image, (16, 16)), image)


def test_halving_a_checkerboard_gives_its_mean():
    board = (np.indices((32, 16)).sum(0) % 2 * 200).astype(np.uint8)[:, :, None]
    assert (resize_and_crop(board, (16, 8)) == 100).all()
    assert (resize_and_crop(board, (4, 2)) == 100).all()


@pytest.mark.parametrize("size", [(16, 64), (16, 40), (24, 100)])
def test_a_gradient_stays_monotone(size):
    image = np.broadcast_to(np.arange(64, dtype=np.uint8) * 4, (32, 64))[:, :, None]
    result = resize_and_crop(image, size)[:, :, 0].astype(int)
    assert (np.diff(result, axis=1) >= 0).all()
    assert np.ptp(result, axis=0).max() == 0


@pytest.mark.parametrize(("size", "axis"), [((10, 10), 1), ((10, 20), 0)])
def test_the_middle_is_kept(size, axis):
    image = np.zeros((30, 42, 1), np.uint8) if axis else np.zeros((40, 40, 1), np.uint8)
    middle = image.shape[axis] // 2
    image[(slice(None),) * axis + (slice(middle, None),)] = 255
    result = resize_and_crop(image, size)
    first, second = np.split(result, 2, axis)
    assert first.mean() < 16
    assert second.mean() > 239
    assert abs(float(first.mean()) + float(second.mean()) - 255) < 1


def test_crops_reach_both_ends():
    image = np.broadcast_to(np.arange(100, dtype=np.uint8), (10, 100))[:, :, None]
    firsts = [int(crop(image, (10, 10), (0, at))[0, 0, 0]) for at in (0, 0.5, 1 - 1e-9)]
    assert firsts == [0, 45, 90]
    assert np.array_equal(crop(image, (10, 11)), image[:, 44:55])
    places = np.random.default_rng(0).random((999, 2))
    assert {int(crop(image, (10, 95), at)[0, 0, 0]) for at in places} == set(range(6))


def test_a_cover_is_the_smallest_that_keeps_the_shape():
    assert cover(np.zeros((40, 80, 3), np.uint8), (10, 10)).shape == (10, 20, 3)
    assert cover(np.zeros((30, 20, 3), np.uint8), (10, 16)).shape == (24, 16, 3)


@pytest.mark.parametrize("shape", [(1, 3000), (2, 20_000), (3000, 1)])
@pytest.mark.parametrize("place", [None, (0.3, 0.999)])
def test_a_thin_strip_takes_memory_in_proportion_to_the_target(monkeypatch, shape, place):
    sizes, resize = [], images._resize

    def watched(image, size, *more):
        sizes.append(image.size + 3 * size[0] * size[1])
        return resize(image, size, *more)

    monkeypatch.setattr(images, "_resize", watched)
    strip = np.zeros((*shape, 3), np.uint8)
    np.moveaxis(strip, np.argmax(shape), 0)[max(shape) // 2 :] = 255
    kept = cover(strip, (256, 256))
    assert kept is strip
    piece = crop(kept, (256, 256), place)
    assert piece.shape == (256, 256, 3)
    assert sum(sizes) < 2 * piece.size
    if place is None:
        assert 100 < piece.mean() < 200  # the edge in the middle is in the middle


@given(
    some.tuples(*[some.integers(1, 60)] * 2),
    some.tuples(*[some.integers(1, 40)] * 2),
    some.sampled_from([1, 2, 3]),
    some.none() | some.tuples(*[some.floats(0, 0.999)] * 2),
    some.integers(0, 99),
)
def test_a_piece_enlarged_alone_is_the_piece_of_the_whole(shape, size, channels, place, seed):
    image = np.random.default_rng(seed).integers(0, 256, (*shape, channels), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "_MOST_TARGETS", float("inf"))
        whole = crop(cover(image, size), size, place)
        patch.setattr(images, "_MOST_TARGETS", 0)
        piece = crop(cover(image, size), size, place)
    assert piece.shape == whole.shape
    assert np.abs(piece.astype(int) - whole).max() <= 1  # rounding where a sum ends in a half


def test_num_cores():
    assert num_cores() >= 1


@pytest.mark.parametrize(
    ("shape", "size"), [((40, 60), (8, 8)), ((9, 50), (8, 16)), ((5, 4), (8, 8))]
)
def test_a_piece_is_what_pillow_makes_of_the_whole_part(shape, size):
    image = np.random.default_rng(0).integers(256, size=(*shape, 3), dtype=np.uint8)
    for side, place in ((1.0, (0.0, 0.999)), (0.5, (0.3, 0.6)), (0.31, (0.999, 0.0))):
        unit = side * min(shape[0] / size[0], shape[1] / size[1])
        high, wide = unit * size[0], unit * size[1]
        top, left = place[0] * (shape[0] - high), place[1] * (shape[1] - wide)
        box = (left, top, left + wide, top + high)
        whole = Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC, box)
        assert np.array_equal(piece(image, size, place, side), np.asarray(whole))
    assert np.array_equal(piece(image[:4, :4], (4, 4), (0.5, 0.5), 1.0), image[:4, :4])


def test_shrinking_keeps_what_small_pieces_need_and_enlarges_nothing():
    image = np.zeros((400, 300, 1), np.uint8)
    assert shrink(image, (30, 30), 0.5).shape == (80, 60, 1)
    assert shrink(image, (30, 30), 0.1) is image
    assert shrink(image, (300, 200), 0.5) is image
