"""Decoding one item, and the vocabulary of splits and names that all sources share."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from convflow.data.source import StoredSource, natural_key, one_line, require, stamp_of
from convflow.types import InputError


def encode(kind, mode="RGB", size=(40, 30), **options):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def source_of(*items):
    return StoredSource(
        "some", (), np.zeros(len(items), np.int64), "item{}".format, items.__getitem__
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "TGA"])
def test_reads_the_format_whole(kind):
    image = source_of(encode(kind)).read(0)
    assert image.size == (40, 30)
    assert np.asarray(image).std() > 10


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_truncated_picture_is_named(kind, kept):
    data = encode(kind)
    with pytest.raises(InputError, match=r"^item0: expected a readable image, got .+"):
        source_of(data[: int(len(data) * kept)]).read(0)


@pytest.mark.parametrize(
    ("data", "got"),
    [(b"", "an empty file"), (b"hello, I am text", "no known image format")],
)
def test_no_picture_at_all(data, got):
    with pytest.raises(InputError, match=got):
        source_of(encode("PNG"), data).read(1)


def test_a_picture_that_runs_programs_is_refused():
    with pytest.raises(InputError, match="no known image format"):
        source_of(encode("EPS")).read(0)


def test_a_failing_fetch_is_an_unreadable_picture():
    def fetch(index):
        raise PermissionError("Permission\ndenied")

    source = StoredSource("some", (), np.zeros(1, np.int64), "item{}".format, fetch)
    with pytest.raises(InputError, match=r"item0: .* got Permission denied$"):
        source.read(0)


def test_natural_order():
    names = ["b", "class10", "class2", "Class1", "10", "9"]
    assert sorted(names, key=natural_key) == ["9", "10", "b", "Class1", "class2", "class10"]


def test_a_missing_package_names_its_extra():
    with pytest.raises(InputError, match=r"pip install convflow\[parquet\]"):
        require("no_such_package.inner", "parquet", "x")


def test_one_line():
    assert one_line(ValueError("a\n  b")) == "a b"
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_the_stamp_of_a_link_to_nowhere(tmp_path):
    (tmp_path / "a").symlink_to("nowhere")
    before = stamp_of(tmp_path, ["a"])
    (tmp_path / "nowhere").write_text("here now")
    assert stamp_of(tmp_path, ["a"]).text != before.text
