"""Pictures of visitors are checked by their headers, before anything is decoded."""

from __future__ import annotations

import io
import struct
import zlib
from types import SimpleNamespace

import pytest
from PIL import Image

gr = pytest.importorskip("gradio")
parts = pytest.importorskip("convflow.demo.web_parts")


def png(width, height):
    """The header of a PNG file, without any pixel."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"")


def whole(size=(8, 6)):
    file = io.BytesIO()
    Image.new("RGBA", size, "red").save(file, "png")
    return file.getvalue()


def sent(editor, background, *layers):
    """What the editor reads of files that a browser sent."""
    blobs = SimpleNamespace(background=background, layers=list(layers), composite=None)
    editor.blob_storage["a"] = blobs
    return editor.preprocess(SimpleNamespace(id="a"))


@pytest.fixture
def editor():
    return parts.create_editor(type="pil", image_mode="RGBA")


def test_pictures_and_paint_are_read(editor):
    found = sent(editor, whole(), whole())
    assert found["background"].size == found["layers"][0].size == (8, 6)
    assert editor.get_block_name() == "imageeditor"
    assert editor.preprocess(None) is None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([png(4097, 8)], "at most 4096x4096, got 8x4097"),
        ([whole(), png(8, 5000)], "at most 4096x4096, got 5000x8"),
        ([whole()] * 4, "at most 2 layers of paint, got 3"),
        ([b"garbage"], "cannot be read"),
        ([png(8, 6)], "cannot be read"),
        ([whole(), b""], "cannot be read"),
    ],
)
def test_others_are_told(editor, files, message, monkeypatch):
    if "at most" in message:  # nothing is decoded
        monkeypatch.setattr(Image.Image, "convert", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(gr.Error, match=message) as refusal:
        sent(editor, *files)
    assert refusal.value.duration is None  # no line of the page keeps it


def test_what_is_sent_and_never_used_does_not_pile_up(editor):
    for i in range(3 * parts.MOST_KEPT):
        editor.blob_storage[f"old {i}"] = None
    sent(editor, whole())
    assert len(editor.blob_storage) <= parts.MOST_KEPT


def gallery_of(*paths):
    return SimpleNamespace(
        root=[SimpleNamespace(image=SimpleNamespace(path=str(p)), caption=None) for p in paths]
    )


def test_a_gallery_takes_back_few_pictures_of_few_pixels(tmp_path):
    gallery = parts.create_gallery(most=2, type="pil")
    (tmp_path / "a.png").write_bytes(whole())
    (tmp_path / "b.png").write_bytes(png(9000, 9000))
    ((picture, _),) = gallery.preprocess(gallery_of(tmp_path / "a.png"))
    assert picture.size == (8, 6)
    assert gallery.get_block_name() == "gallery"
    with pytest.raises(gr.Error, match="got 9000x9000"):
        gallery.preprocess(gallery_of(tmp_path / "b.png"))
    with pytest.raises(gr.Error, match="at most 2 pictures, got 3"):
        gallery.preprocess(gallery_of(*[tmp_path / "a.png"] * 3))
    with pytest.raises(gr.Error, match="got a video"):
        gallery.preprocess(SimpleNamespace(root=[SimpleNamespace(video="a.mp4")]))


def test_a_lack_of_memory_is_told_and_faults_are_not_hidden():
    with pytest.raises(gr.Error, match="out of memory"), parts.told():
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
    with pytest.raises(RuntimeError, match="a bug"), parts.told():
        raise RuntimeError("a bug")
