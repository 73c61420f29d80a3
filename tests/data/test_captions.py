"""What is said of images is found beside them or in a table, and a store keeps it."""

import json

import numpy as np
import pytest

from convflow.data.captions import caption_text, captions_of, find_caption_column
from convflow.data.latents import Latents, describe_stores, find_stores
from convflow.data.sources import open_source
from convflow.data.store import damaged_files, read_index
from convflow.types import InputError
from tests.data.made import png, tar
from tests.data.test_store import store


def test_a_cell_is_a_caption_or_nothing():
    cells = [" a cat\n", "a cat.\n\nIt sits.", ["", "a dog", "dogs"], None, 3, {}, []]
    said = ["a cat", "a cat. It sits.", "a dog\ndogs", "", "", "", ""]
    assert [caption_text(cell) for cell in cells] == said


def test_the_column_is_called_so_or_named():
    columns = ["Text", "caption", "size"]
    assert find_caption_column(columns, "", "t") == "caption"
    assert find_caption_column(columns, "", "t", ["Text"]) == "Text"
    assert find_caption_column(columns, "size", "t") == "size"
    assert find_caption_column(["size"], "", "t") is None
    with pytest.raises(InputError, match=r"expected a column of text, got size; t has text in Te"):
        find_caption_column(columns, "size", "t", ["Text"])


def test_a_json_beside_an_image_in_a_tar(tmp_path):
    said = [json.dumps({"prompt": f"picture {i}", "alt": ["x" * i]}).encode() for i in range(2)]
    files = {"0_json": said[0], "1_json": said[1], "2_json": b"{", "0_notes_md": b""}
    path = tar(tmp_path / "a.tar", **files, **{f"{i}_png": png(i) for i in range(3)})
    source = open_source(str(path))
    assert [source.caption(i) for i in range(3)] == ["picture 0", "picture 1", ""]
    assert "captions from `prompt` of 0.json and other .json files" in source.notes
    assert open_source(str(path), caption_column="alt").caption(1) == "x"
    with pytest.raises(InputError, match=r"a table or .json files with 'none' in .*; leave"):
        open_source(str(path), caption_column="none")
    with pytest.raises(InputError, match="expected no choice"):
        open_source("digits", caption_column="none")


def test_a_txt_beside_an_image_counts_before_a_json(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    for i in (0, 1, 4):
        (tmp_path / f"{i}.json").write_text(json.dumps({"caption": f"json {i}"}))
    for i, text in ((1, "text 1\n"), (2, "text 2"), (4, " ")):
        (tmp_path / f"{i}.txt").write_text(text)
    source = open_source(str(tmp_path))
    said = [source.caption(i) for i in range(5)]
    assert said == ["json 0", "text 1", "text 2", "", "json 4"]
    note = "captions from 1.txt and other .txt files, or else from `caption` of 0.json and other"
    assert any(line.startswith(note) for line in source.notes)
    named = open_source(str(tmp_path), caption_column="caption")
    assert [named.caption(i) for i in range(5)] == ["json 0", "json 1", "", "", "json 4"]


def test_a_store_keeps_them(tmp_path):
    texts = ["", "a c\u00e4t", "", "two\nlines", "", "", "end"]
    store(tmp_path / "a", captions=texts)
    store(tmp_path / "b")
    assert captions_of(Latents("b", [tmp_path / "b"])) is None
    latents = Latents("both", find_stores(tmp_path))
    assert [latents.caption(i) for i in range(14)] == [*texts, *[""] * 7]
    shown = describe_stores(tmp_path / "a", [tmp_path / "a"])["captions"]
    assert shown == ["image 0: ", "image 3: two lines", "image 6: end"]
    store(tmp_path / "none", captions=[""] * 7)
    assert not (tmp_path / "none/captions.npy").exists()
    index = read_index(tmp_path / "a")
    np.save(tmp_path / "a/captions.npy", np.zeros(3, np.uint8))
    assert list(damaged_files(tmp_path / "a", index)) == ["captions.npy"]
    with pytest.raises(InputError, match=r"captions.npy: expected 18 items, got \(3,\); copy it"):
        Latents("a", [tmp_path / "a"])


def test_a_json_stands_in_for_a_blank_txt_where_each_image_has_both(tmp_path):
    for i, text in enumerate(("text 0", " \n")):
        (tmp_path / f"{i}.png").write_bytes(png(i))
        (tmp_path / f"{i}.json").write_text(json.dumps({"caption": f"json {i}"}))
        (tmp_path / f"{i}.txt").write_text(text)
    source = open_source(str(tmp_path))
    assert [source.caption(i) for i in range(2)] == ["text 0", "json 1"]
