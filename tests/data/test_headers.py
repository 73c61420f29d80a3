"""Mode and size from the first bytes: what Pillow says, or nothing."""

import io

import numpy as np
import pytest
from PIL import Image

from convflow.data.headers import HEAD_BYTES, read_header
from convflow.data.source import StoredSource

TURNED = b'<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
KINDS = [
    *(("PNG", mode, {}) for mode in ("L", "RGB", "P", "LA", "RGBA", "I;16", "1")),
    *(("JPEG", mode, {}) for mode in ("L", "RGB", "CMYK")),
    ("JPEG", "RGB", {"progressive": True, "comment": b"\xff\xc0 no frame"}),
    ("JPEG", "RGB", {"icc_profile": bytes(9000)}),
    *(("JPEG", "RGB", {"exif": turn}) for turn in (1, 6)),
    ("PNG", "RGB", {"exif": 6}),
    ("JPEG", "RGB", {"xmp": TURNED}),
    *((kind, "RGB", {}) for kind in ("WEBP", "BMP", "TIFF", "GIF", "PPM")),
]


def encoded(kind, mode, options):
    image = Image.fromarray(np.arange(90, dtype=np.uint8).reshape(9, 10)).convert(
        "L" if mode == "I;16" else mode
    )
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16))
    if "exif" in options:
        exif = Image.Exif()
        exif[0x0112] = options["exif"]
        options = {"exif": exif}
    image.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "mode", "options"), KINDS)
def test_headers_say_what_decoding_does(kind, mode, options):
    data = encoded(kind, mode, options)
    source = StoredSource("x", (), np.zeros(1, np.int64), str, lambda index: data)
    image = source.read(0)
    turned = options.get("exif") == 6 or "xmp" in options
    wanted = image.mode, image.size if turned else image.size[::-1]
    assert source.header(0) == wanted
    source.head = lambda index, num: data[:num]
    assert source.header(0) == wanted
    common = kind in ("PNG", "JPEG") and mode not in ("1", "CMYK") and not turned
    common &= "exif" not in options
    if common and "icc_profile" not in options:
        assert read_header(data[:HEAD_BYTES]) == wanted


def test_any_bytes_are_no_error():
    generator = np.random.default_rng(0)
    for kind, mode, options in KINDS[:12]:
        data = encoded(kind, mode, options)
        for cut in range(0, min(len(data), 700), 7):
            read_header(data[:cut])
        for _ in range(100):
            spoilt = np.frombuffer(data, np.uint8).copy()
            spoilt[generator.integers(0, min(len(data), 300), 4)] = generator.integers(0, 256, 4)
            found = read_header(spoilt.tobytes())
            assert found is None or min(found[1]) > 0
