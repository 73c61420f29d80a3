"""The look at every image: what is counted, what is refused, and what is remembered."""

import warnings

import numpy as np
import pytest
from PIL import Image

from convflow.data.check import check_images
from convflow.data.selection import Selection
from convflow.data.source import StoredSource
from convflow.data.sources import open_source
from convflow.types import InputError
from tests.data.made import png, tar


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
    report, indices = check_images(
        open_source(str(folder)), channels=3, size=(8, 12), progress=lambda *at: seen.append(at)
    )
    assert (report.count, len(indices)) == (130, 130)
    assert report.per_class == {"c0": 65, "c1": 65}
    assert report.sizes == ((8, 10), (8, 10), (8, 30))
    assert report.modes == {"RGB": 86, "L": 44}
    assert not report.unreadable
    assert seen[-1] == (130, 130)
    assert str(report).splitlines()[:3] == [
        "130 images, 8x10 to 8x30, median 8x10 (height x width); 86 RGB, 44 L",
        "2 classes from folders: c0, c1",
        "2 classes: 65 images each",
    ]


def test_bad_pictures_stop_or_are_skipped(folder):
    spoil(folder)
    source = open_source(str(folder))
    with pytest.raises(InputError) as caught:
        check_images(source, channels=3, size=(8, 8))
    message = str(caught.value)
    assert "\n" not in message
    for words in ("c0/cut.jpg", "truncated", "2 more of 133", "--data.on-bad skip"):
        assert words in message
    report, indices = check_images(source, channels=3, size=(8, 8), on_bad="skip")
    assert (report.count, len(indices)) == (130, 130)
    reasons = dict(report.unreadable)
    assert set(reasons) == {"c0/cut.jpg", "c0/empty.png", "c1/text.png"}
    assert reasons["c0/empty.png"] == "expected a readable image, got an empty file"
    names = {source.item_name(i) for i in indices}
    assert not names & set(reasons)
    assert "3 cannot be used" in str(report)


def test_a_class_without_a_usable_picture_is_said(folder):
    (folder / "c2").mkdir()
    (folder / "c2/x.png").write_text("text")
    report, _ = check_images(open_source(str(folder)), channels=3, size=(8, 8), on_bad="skip")
    assert "classes without a usable image: c2" in str(report)


def test_check_refusals(tmp_path):
    (tmp_path / "x.png").write_text("text")
    source = open_source(str(tmp_path))
    with pytest.raises(InputError, match="none of the images is usable"):
        check_images(source, channels=3, size=(8, 8), on_bad="skip")
    with pytest.raises(InputError, match="'stop' or 'skip', got 'ignore'"):
        check_images(source, channels=3, size=(8, 8), on_bad="ignore")
    nothing = StoredSource("void", (), np.zeros(0, np.int64), str, lambda index: b"")
    with pytest.raises(InputError, match="expected images in void, got none"):
        check_images(nothing, channels=3, size=(8, 8))
    image = Image.new("L", (8, 8))
    odd = StoredSource("odd", ("a",), np.array([0, 1]), "row {}".format, lambda index: image)
    with pytest.raises(InputError, match=r"odd, row 1: expected a label in 0\.\.0, got 1"):
        check_images(odd, channels=1, size=(8, 8))


def test_pillow_does_not_warn_and_filters_come_back(folder):
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"  # five entries promised, none there
    Image.new("L", (8, 8)).save(folder / "c0/odd.jpg", exif=exif)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        check_images(open_source(str(folder)), channels=1, size=(8, 8), on_bad="skip")
        assert warnings.filters == before
    assert not caught


def test_a_second_look_is_remembered(folder, tmp_path_factory):
    memory, reads = tmp_path_factory.mktemp("memory"), []

    def scan(**options):
        source = open_source(str(folder))
        fetch = source.fetch
        source.fetch = lambda index: reads.append(index) or fetch(index)
        given = {"channels": 3, "size": (8, 12), "memory": memory} | options
        report, indices = check_images(source, **given)
        count = len(reads)
        reads.clear()
        return str(report), indices.tolist(), count

    first = scan()
    assert scan() == (*first[:2], 0)
    assert scan(channels=1)[2] == 130
    (folder / "c0/000.png").write_bytes((folder / "c0/002.png").read_bytes())
    assert scan()[2] == 1  # the others are known still
    assert scan()[2] == 0
    (folder / "c0/002.png").write_bytes(b"text")
    for _ in range(2):  # what is bad is looked at again
        report, indices, count = scan(on_bad="skip")
        assert "1 cannot be used: c0/002.png" in report
        assert len(indices) == 129
    assert count == 1
    for file in memory.iterdir():
        file.write_bytes(b"damaged")
    assert scan(on_bad="skip")[2] == 130


def test_of_many_pictures_a_sample_is_decoded(folder, tmp_path_factory, monkeypatch):
    monkeypatch.setattr("convflow.data.check.FEW_IMAGES", 100)
    monkeypatch.setattr("convflow.data.check.SAMPLE_IMAGES", 13)
    memory, wholes, heads = tmp_path_factory.mktemp("memory"), [], []
    spoil(
        folder
    )  # one file is empty, one is text, and one is cut where the header does not show it

    def scan(**options):
        source = open_source(str(folder))
        fetch, head = source.fetch, source.head
        source.fetch = lambda index: wholes.append(index) or fetch(index)
        source.head = lambda *of: heads.append(of) or head(*of)
        given = {"channels": 3, "size": (8, 8), "on_bad": "skip", "memory": memory} | options
        report, indices = check_images(source, **given)
        counts = len(set(wholes)), len(heads)
        wholes.clear(), heads.clear()
        return report, [source.item_name(i) for i in indices], *counts

    everything, usable, *_ = scan(look="all", memory=None)
    report, names, decoded, headers = scan()
    assert names == sorted([*usable, "c0/cut.jpg"])
    assert headers == 133 - 13
    assert decoded == 13
    assert report.per_class == {"c0": 66, "c1": 65}
    assert np.array_equal(np.delete(report.sides, names.index("c0/cut.jpg"), 0), everything.sides)
    assert report.modes == {"RGB": 87, "L": 44}
    assert "11 were decoded, of 120 the header was read; what is wrong" in str(report)
    assert scan()[3] <= 2  # the bad ones alone
    few, _, _, headers = scan(look="some", memory=None)
    assert (headers, np.count_nonzero(few.sides[:, 0])) == (0, 11)
    assert scan(look="some", sized=True, memory=None)[3] == 120
    assert scan(look="all")[0].num_decoded == 130
    (folder / "c0/000.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"c0/000.png: expected a readable image, got an empty"):
        scan(on_bad="stop")


def test_another_part_of_the_same_tar_is_looked_at_anew(tmp_path):
    path = tar(tmp_path / "x.tar", train__a__0_png=png(1), test__a__1_png=b"text")
    given = {"channels": 1, "size": (4, 4), "memory": tmp_path}
    check_images(open_source(str(path)), **given)
    with pytest.raises(InputError, match=r"test/a/1\.png"):
        check_images(open_source(str(path), "test"), **given)


def test_no_memory_is_no_trouble(folder, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    report, _ = check_images(open_source(str(folder)), channels=3, size=(8, 8), memory=blocked)
    assert report.count == 130


def test_transparent_pictures_and_12_bits_in_16_are_said(tmp_path):
    for number in range(3):
        clear = Image.new("RGBA", (8, 8), (9, 9, 9, 255 if number else 0))
        clear.save(tmp_path / f"a{number}.png")
        Image.fromarray(np.full((8, 8), 4000 - number, np.uint16)).save(tmp_path / f"b{number}.png")
    report = str(check_images(open_source(str(tmp_path)), channels=3, size=(8, 8))[0])
    assert "1 images are transparent: they are laid on white" in report
    assert "3 images look like 12 bits in 16: they come out 16 times too dark;" in report
    assert "multiply their values by 16 " in report
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "b3.png")
    assert "bits" not in str(check_images(open_source(str(tmp_path)), channels=3, size=(8, 8))[0])


def test_a_run_that_goes_on_keeps_its_pictures(folder):
    spoil(folder)
    source = open_source(str(folder))
    report, indices = check_images(source, channels=3, size=(8, 8), on_bad="skip")
    begun = Selection(indices, report.sides)
    (folder / "c0/000.png").write_bytes(b"damaged since")
    Image.new("L", (3, 3)).save(folder / "c0/empty.png")  # and this one repaired
    options = {"channels": 3, "size": (8, 8), "selection": begun}
    later, kept = check_images(source, on_bad="skip", **options)
    assert np.array_equal(kept, indices)
    assert np.array_equal(later.sides, report.sides)
    assert later.per_class == report.per_class
    assert {name for name, _ in later.unreadable} == {"c0/000.png", "c0/cut.jpg", "c1/text.png"}
    with pytest.raises(InputError, match=r"c0/000.png: .*; repair it or pass --data.on-bad skip"):
        check_images(source, on_bad="stop", **options)
    (folder / "c0/000.png").write_bytes((folder / "c0/002.png").read_bytes())
    assert (
        check_images(source, on_bad="stop", **options)[0].count == 130
    )  # others were left out before


def test_the_stamp_follows_the_files_not_their_place(folder, tmp_path_factory):
    def stamp(of):
        return check_images(open_source(str(of)), channels=3, size=(8, 8))[0].stamp

    before = stamp(folder)
    moved = folder.rename(tmp_path_factory.mktemp("elsewhere") / "moved")
    assert stamp(moved) == before
    (moved / "c0/000.png").write_bytes((moved / "c0/002.png").read_bytes())
    assert stamp(moved) != before
