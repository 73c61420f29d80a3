"""Pictures on white in three shapes, each with its caption."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from convflow.types import InputError

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import emoji


def encoded(colour):
    file = io.BytesIO()
    Image.new("RGBA", (8, 8), colour).save(file, format="png")
    return {"bytes": file.getvalue(), "path": None}


def test_every_picture_is_square_and_two_thirds_are_long_too(tmp_path):
    colours = [(255, 0, 0, 255), (0, 0, 255, 0), (0, 255, 0, 255), (0, 0, 0, 255)]
    table = {"image": [*map(encoded, colours)], "caption": ["red", "glass", "green", "black"]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "train.parquet")
    out = tmp_path / "new" / "pages"
    assert emoji.main([str(tmp_path), str(out)]) == f"7 pictures in {out}"
    lines = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert [line["caption"] for line in lines] == "red red glass glass green black black".split()
    pages = {line["file_name"]: np.asarray(Image.open(out / line["file_name"])) for line in lines}
    shapes = [page.shape[:2] for page in pages.values()]
    assert shapes == [(8, 8), (8, 12), (8, 8), (12, 8), (8, 8), (8, 8), (8, 12)]
    wide = pages["0000-wide.png"]
    assert (wide[:, 2:10] == [255, 0, 0]).all()
    assert (wide[:, [0, 1, 10, 11]] == 255).all()
    assert (pages["0001-tall.png"] == 255).all()


def test_nothing_to_read_and_a_folder_that_is_there_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected a table .*train\.parquet"):
        emoji.write(tmp_path, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "train.parquet").touch()
    with pytest.raises(InputError, match="it exists already"):
        emoji.write(tmp_path, tmp_path)
