"""Endings of images, and Pillow's decoders behind them."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, features

from convflow.data import formats
from convflow.data.source import StoredSource


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        *[(ending, "JPEG") for ending in ("jpg", "JPEG", "jfif", "jpe")],
        *[("gif", "GIF"), ("ppm", "PPM"), ("pgm", "PPM"), ("tga", "TGA"), ("apng", "PNG")],
        *[("avif", "AVIF"), ("jp2", "JPEG2000")],
    ],
)
def test_what_pillow_reads_is_a_picture(ending, kind):
    if kind not in formats.decoders():
        pytest.skip(f"Pillow was built without {kind}")
    assert formats.is_image(f"a/b.{ending}")
    file = BytesIO()
    Image.new("RGB", (16, 16), (200, 20, 20)).save(file, kind)
    source = StoredSource("x", (), np.zeros(1, np.int64), str, lambda index: file.getvalue())
    assert source.read(0).size == (16, 16)


def test_a_format_that_pillow_lacks_is_named(monkeypatch):
    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    for function in (formats.decoders, formats.endings):
        function.cache_clear()
    try:
        assert "AVIF" not in formats.decoders()
        assert not formats.is_image("a.avif")
        assert formats.unread(["a.avif", "b.heic"]) == (
            "2 images are in an unsupported format: 1 avif, 1 heic; convert them to PNG or JPEG",
        )
    finally:
        for function in (formats.decoders, formats.endings):
            function.cache_clear()


def test_no_decoder_starts_programs():
    assert not {"EPS", "WMF", "GBR", "FITS"} & set(formats.decoders())


def test_many_endings_are_cut():
    (sentence,) = formats.unread([f"x.a{i}" for i in range(20)])
    assert sentence.startswith("20 files are not read: 1 a0, 1 a1")
    assert sentence.endswith(", ...")
    assert formats.unread([]) == ()
    assert formats.unread([".x/readme", "b."]) == ("2 files are not read: 2 without an ending",)
