"""Any picture to uint8, the resizing against known answers, and the check."""

import warnings

import numpy as np
import pytest
from PIL import Image

from convflow.data.images import check, num_cores, resize_and_crop, to_uint8
from convflow.data.pictures import Pictures
from convflow.data.sources import open_source
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
        picture = Image.fromarray(np.full((2, 3), 65535, np.uint16))
    elif mode == "I":
        picture = Image.fromarray(np.full((2, 3), 65535, np.int32))
    else:
        picture = Image.new("RGB", (3, 2), "white").convert(mode)
    pixels = to_uint8(picture, channels)
    assert (pixels.shape, pixels.dtype) == ((2, 3, channels), np.uint8)
    assert (pixels >= 254).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(tmp_path, mode):
    picture = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    picture.putpixel((1, 0), (0, 0, 0, 255))
    if mode == "P":
        picture.save(tmp_path / "x.gif", transparency=0)
        picture = Image.open(tmp_path / "x.gif")
        assert picture.mode == "P"
    else:
        picture = picture.convert(mode)
    assert to_uint8(picture, 1).ravel().tolist() == [255, 0]
    assert to_uint8(picture, 3).reshape(2, 3).tolist() == [[255] * 3, [0] * 3]


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
    ("picture", "channels", "message"),
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
def test_refused(picture, channels, message):
    with pytest.raises(InputError, match=message):
        to_uint8(picture, channels)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("size", [(8, 8), (5, 13), (40, 7), (64, 64)])
def test_constant_stays_constant(size, channels):
    picture = np.full((37, 51, channels), 77, np.uint8)
    result = resize_and_crop(picture, size)
    assert (result.shape, result.dtype) == ((*size, channels), np.uint8)
    assert (result == 77).all()


def test_same_size_is_untouched():
    picture = RAMP[:, :, None]
    assert resize_and_crop(picture, (16, 16)) is picture


def test_halving_a_checkerboard_gives_its_mean():
    board = (np.indices((32, 16)).sum(0) % 2 * 200).astype(np.uint8)[:, :, None]
    assert (resize_and_crop(board, (16, 8)) == 100).all()
    assert (resize_and_crop(board, (4, 2)) == 100).all()


@pytest.mark.parametrize("size", [(16, 64), (16, 40), (24, 100)])
def test_a_gradient_stays_monotone(size):
    picture = np.broadcast_to(np.arange(64, dtype=np.uint8) * 4, (32, 64))[:, :, None]
    result = resize_and_crop(picture, size)[:, :, 0].astype(int)
    assert (np.diff(result, axis=1) >= 0).all()
    assert np.ptp(result, axis=0).max() == 0


@pytest.mark.parametrize(("size", "axis"), [((10, 10), 1), ((10, 20), 0)])
def test_the_middle_is_kept(size, axis):
    picture = np.zeros((30, 42, 1), np.uint8) if axis else np.zeros((40, 40, 1), np.uint8)
    middle = picture.shape[axis] // 2
    picture[(slice(None),) * axis + (slice(middle, None),)] = 255
    result = resize_and_crop(picture, size)
    first, second = np.split(result, 2, axis)
    assert first.mean() < 16
    assert second.mean() > 239
    assert abs(float(first.mean()) + float(second.mean()) - 255) < 1


def test_random_crop():
    picture = np.broadcast_to(np.arange(100, dtype=np.uint8), (10, 100))[:, :, None]
    rng = np.random.default_rng(0)
    starts = {
        int(resize_and_crop(picture, (10, 10), crop="random", rng=rng)[0, 0, 0]) for _ in range(999)
    }
    assert (min(starts), max(starts)) == (0, 90)
    again = [
        resize_and_crop(picture, (10, 10), crop="random", rng=np.random.default_rng(3))
        for _ in "ab"
    ]
    assert np.array_equal(*again)
    for crop in ("random", "left"):
        with pytest.raises(InputError, match="expected crop"):
            resize_and_crop(picture, (10, 10), crop=crop)


@pytest.fixture
def folder(tmp_path):
    for number in range(130):
        (tmp_path / f"c{number % 2}").mkdir(exist_ok=True)
        side = 10 if number else 30
        Image.new("RGB" if number % 3 else "L", (side, 8)).save(
            tmp_path / f"c{number % 2}/{number:03}.png"
        )
    return tmp_path


def spoil(folder):
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    Image.fromarray(noise).save(folder / "c0/cut.jpg")
    data = (folder / "c0/cut.jpg").read_bytes()
    (folder / "c0/cut.jpg").write_bytes(data[: len(data) * 2 // 3])
    (folder / "c0/empty.png").touch()
    (folder / "c1/text.png").write_text("I am text")


def test_report(folder):
    seen = []
    report, indices = check(
        open_source(str(folder)), channels=3, size=(8, 12), progress=lambda *at: seen.append(at)
    )
    assert (report.count, len(indices)) == (130, 130)
    assert report.per_class == {"c0": 65, "c1": 65}
    assert report.sizes == ((8, 10), (8, 10), (8, 30))
    assert report.modes == {"RGB": 86, "L": 44}
    assert report.num_smaller == 129
    assert not report.unreadable
    assert seen[-1] == (130, 130)
    assert "130 pictures, 8x10 to 8x30, median 8x10" in str(report)


def test_bad_pictures_stop_or_are_skipped(folder):
    spoil(folder)
    source = open_source(str(folder))
    with pytest.raises(InputError) as caught:
        check(source, channels=3, size=(8, 8))
    message = str(caught.value)
    assert "\n" not in message
    for words in ("c0/cut.jpg", "truncated", "2 more of 133", "--data.on-bad skip"):
        assert words in message
    report, indices = check(source, channels=3, size=(8, 8), on_bad="skip")
    assert (report.count, len(indices)) == (130, 130)
    reasons = dict(report.unreadable)
    assert set(reasons) == {"c0/cut.jpg", "c0/empty.png", "c1/text.png"}
    assert reasons["c0/empty.png"] == "expected a readable picture, got an empty file"
    names = {source.item_name(i) for i in indices}
    assert not names & set(reasons)
    assert "3 cannot be used" in str(report)


def test_check_refusals(tmp_path):
    (tmp_path / "x.png").write_text("text")
    source = open_source(str(tmp_path))
    with pytest.raises(InputError, match="none of the pictures is usable"):
        check(source, channels=3, size=(8, 8), on_bad="skip")
    with pytest.raises(InputError, match="'stop' or 'skip', got 'ignore'"):
        check(source, channels=3, size=(8, 8), on_bad="ignore")
    nothing = Pictures("void", (), np.zeros(0, np.int64), str, lambda index: b"")
    with pytest.raises(InputError, match="expected pictures in void, got none"):
        check(nothing, channels=3, size=(8, 8))
    picture = Image.new("L", (8, 8))
    odd = Pictures("odd", ("a",), np.array([0, 1]), "row {}".format, lambda index: picture)
    with pytest.raises(InputError, match=r"odd, row 1: expected a label in 0\.\.0, got 1"):
        check(odd, channels=1, size=(8, 8))


def test_pillow_does_not_warn_and_filters_come_back(folder):
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"  # five entries promised, none there
    Image.new("L", (8, 8)).save(folder / "c0/odd.jpg", exif=exif)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        check(open_source(str(folder)), channels=1, size=(8, 8), on_bad="skip")
        assert warnings.filters == before
    assert not caught


def test_num_cores():
    assert num_cores() >= 1
