"""Files of strangers: pipes, devices, paths that lead elsewhere, bombs of bytes and of pixels."""

import os
import struct
import time
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageFile, UnidentifiedImageError

from convflow.data import files
from convflow.data.check import check_images
from convflow.data.files import decode, read_below, read_member, read_regular
from convflow.data.sources import open_source
from convflow.types import InputError


def encode(kind="PNG", size=(6, 4), **options):
    buffer = BytesIO()
    Image.new("L", size, 9).save(buffer, kind, **options)
    return buffer.getvalue()


def test_only_regular_files_within_the_limit(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("x")
    assert read_regular(tmp_path / "link", 5) == b"12345"
    with pytest.raises(InputError, match="at most 4 bytes, got 5"):
        read_regular(tmp_path / "x", 4)
    with pytest.raises(InputError, match="got a folder"):
        read_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_and_a_device_among_pictures_are_bad_pictures(tmp_path):
    (tmp_path / "a.png").write_bytes(encode())
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to("/dev/zero")
    report, good = check_images(open_source(str(tmp_path)), channels=1, size=(4, 4), on_bad="skip")
    assert good.tolist() == [0]
    assert dict(report.unreadable) == {
        "b.png": "expected a regular file, got a named pipe",
        "c.png": "expected a regular file, got a device",
    }


def test_paths_of_tables_lead_below_their_folder(tmp_path):
    own = tmp_path / "own"
    (own / "in").mkdir(parents=True)
    (own / "in/x").write_bytes(b"good")
    (tmp_path / "secret").write_bytes(b"secret")
    (own / "out").symlink_to(tmp_path / "secret")
    for path in ("in/x", str(own / "in/x"), "in/../in/x"):
        assert read_below([own], path) == b"good"
    assert read_below([own, tmp_path], str(tmp_path / "secret")) == b"secret"
    for path in ("out", "../secret", str(tmp_path / "secret"), "/dev/zero", "/proc/self/environ"):
        with pytest.raises(InputError, match=f"expected a path below {own}, got {path}"):
            read_below([own], path)


def test_bombs_in_a_zip(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(2**20))
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("a.png")
        assert read_member(archive, entry) == bytes(2**20)
        with pytest.raises(InputError, match="at most 9 bytes, got 1,048,576"):
            read_member(archive, entry, 9)
        entry.file_size = 3 * 2**30
        with pytest.raises(InputError, match="at most 1,073,741,824 bytes, got 3,221,225,472"):
            read_member(archive, entry)
        entry.file_size, entry.compress_size = 2**27, 2**20
        with pytest.raises(InputError, match="at most 100 bytes out of each"):
            read_member(archive, entry)
        entry.file_size, entry.compress_size = 1000, 2**20  # it holds more
        with pytest.raises(zipfile.BadZipFile):
            read_member(archive, entry)


def test_a_member_is_no_larger_than_its_archive_lets_it_be(tmp_path):
    """Whatever the directory says was packed."""
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(2**27))
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("a.png")
        entry.compress_size = 2**22
        with pytest.raises(InputError, match="at most 100 bytes out of each"):
            read_member(archive, entry)


def test_large_pictures_are_decoded_and_used_one_at_a_time(monkeypatch):
    monkeypatch.setattr(files, "LARGE_PIXELS", 23)
    (large, small), within, most = (encode(), encode(size=(5, 4))), [0], []

    def use(data):
        with files.one_large_at_a_time():
            size = decode(data, ["PNG"]).size
            if size == (6, 4):
                within[0] += 1
                most.append(within[0])
                time.sleep(0.002)
                within[0] -= 1
            return size

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(use, [large, small] * 20))
        with pytest.raises(UnidentifiedImageError):
            pool.submit(use, b"text").result()
        with files.one_large_at_a_time():
            decode(large, ["PNG"])
            assert pool.submit(use, small).result() == (5, 4)
            waiting = pool.submit(use, large)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.05)
        assert waiting.result() == (6, 4)
    assert found == [(6, 4), (5, 4)] * 20
    assert max(most) == 1


def png_of_size(width, height):
    data = bytearray(encode())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    def load(image):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(InputError, match=r"at most 178,956,970 pixels .* got 20000x30000"):
        decode(png_of_size(30_000, 20_000), ["PNG"])
    (tmp_path / "a.png").write_bytes(encode())
    with pytest.raises(InputError, match=r"^a.png: expected at most 23 pixels .* got 4x6"):
        open_source(str(tmp_path), max_pixels=23).read(0)


def test_a_small_picture_of_a_huge_tile_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    tags = {
        256: 6,
        257: 4,
        258: 8,
        259: 1,
        262: 1,
        277: 1,
        322: 60_000,
        323: 60_000,
        324: 8,
        325: 9,
    }
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    data = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + body + bytes(4)
    with pytest.raises(InputError, match=r"got 4x6 .* in larger tiles"):
        decode(data, ["TIFF"])


def test_the_limit_of_the_program_plays_no_part(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"):
            assert decode(encode(kind), ["BMP", "PNG", kind]).size == (6, 4)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(InputError, match="at most 23 pixels"):
        decode(encode(), ["PNG"], 23)


@pytest.mark.parametrize("data", [b"", b"P", b"text", encode("GIF")])
def test_other_formats_are_not_tried(data):
    with pytest.raises(UnidentifiedImageError):
        decode(data, ["PPM", "PNG", "NONE"])


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_the_first_of_several_frames_is_taken(kind):
    more = [Image.new("L", (6, 4), level) for level in (99, 199)]
    data = encode(kind, save_all=True, append_images=more)
    assert abs(int(np.asarray(decode(data, [kind]).convert("L")).max()) - 9) < 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["x.zip", "x.parquet", "in/x.parquet"])
def test_a_pipe_in_place_of_an_archive_is_refused(tmp_path, name):
    pytest.importorskip("pyarrow")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / name)
    given = (tmp_path / name).parent if "/" in name else tmp_path / name
    with pytest.raises(InputError, match=r"^expected a (folder or a )?regular file, got"):
        open_source(str(given))
