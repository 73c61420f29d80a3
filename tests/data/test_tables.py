"""Images in parquet files and Hugging Face datasets."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convflow.data.sources import open_source
from convflow.data.tables import _Cache, open_parquet
from convflow.types import InputError
from tests.data.made import labels_of, levels, png, write

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.mark.parametrize("raw", [False, True])
def test_rows_across_groups_and_files(tmp_path, raw):
    first = write(tmp_path / "a.parquet", [0, 1, 2, 0, 1, 2, 0], raw=raw)
    second = write(tmp_path / "b.parquet", [2] * 7, first=7, raw=raw)
    source = open_parquet("both", [first, second])
    assert levels(source) == list(range(14))
    assert labels_of(source) == [0, 1, 2, 0, 1, 2, 0] + [2] * 7
    assert source.class_names == ("0", "1", "2")
    assert source.item_name(8) == "b.parquet row 1"


@pytest.mark.parametrize("others", [["dog", "cat"], None])
def test_tables_with_other_names_of_classes_are_refused(tmp_path, others):
    write(tmp_path / "a.parquet", [0, 1] * 2, count=4, names=["cat", "dog"])
    write(tmp_path / "b.parquet", [0, 1] * 2, count=4, names=others)
    with pytest.raises(InputError, match=r"the same classes.*cat, dog in a.parquet.*in b.parquet"):
        open_source(str(tmp_path))
    assert open_source(str(tmp_path), labels="none").class_names == ()


def test_names_from_the_schema(tmp_path):
    path = write(tmp_path / "x.parquet", [2, 0] + [2] * 5, names=["cat", "dog", "emu"])
    assert open_source(str(path)).class_names == ("cat", "dog", "emu")


def test_text_labels_are_sorted_naturally(tmp_path):
    path = write(tmp_path / "x.parquet", ["c10", "c2", "c2", "c10", "c1", "c1", "c1"])
    source = open_source(str(path))
    assert source.class_names == ("c1", "c2", "c10")
    assert labels_of(source) == [2, 1, 1, 2, 0, 0, 0]


@pytest.mark.parametrize("labels", [None, [-1] * 7, [None] * 7])
def test_unconditional(tmp_path, labels):
    source = open_source(str(write(tmp_path / "x.parquet", labels)))
    assert source.notes[0].startswith("no classes: the model will be unconditional")
    assert source.class_names == ()
    assert labels_of(source) == [0] * 7


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 1, -1, 0, 1, 0, 1], None, r"x.parquet row 2: expected a label in 0\.\.1, got -1"),
        ([0, 1, 0, 0, 1, 0, 9], ["a", "b"], r"row 6: expected a label in 0\.\.1, got 9"),
        ([0, 1, 0, 0, None, 0, 1], None, r"row 4: expected a label, got none \(1 of 7 have none\)"),
        (["a", None, *"babab"], None, r"row 1: expected a label, got none"),
        ([2**40, *range(6)], None, r"row 0: expected a label in"),
        ([0.5] * 7, None, "row 0: expected an integer or text label, got 0.5"),
    ],
)
def test_wrong_labels_name_the_row(tmp_path, labels, names, message):
    path = write(tmp_path / "x.parquet", labels, names=names)
    with pytest.raises(InputError, match=message):
        open_source(str(path))


def test_splits_by_file_name(tmp_path):
    write(tmp_path / "train-00000-of-00002.parquet")
    write(tmp_path / "train-00001-of-00002.parquet", first=7)
    write(tmp_path / "test-00000-of-00001.parquet", first=100)
    assert levels(open_source(str(tmp_path))) == list(range(14))
    assert levels(open_source(str(tmp_path), split="test")) == list(range(100, 107))
    one = tmp_path / "test-00000-of-00001.parquet"
    assert len(open_source(str(one))) == len(open_source(str(one), split="test")) == 7
    with pytest.raises(InputError, match="'validation' split"):
        open_source(str(one), split="validation")
    assert open_source(str(tmp_path)).notes[0] == "split train of train, test"
    assert len(open_source(str(tmp_path), split="all")) == 21


def test_columns(tmp_path):
    assert len(open_source(str(write(tmp_path / "x.parquet", column="pixels")))) == 7
    pq.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "no.parquet")
    with pytest.raises(
        InputError, match=r"expected an image column .* got the columns a .int64., b"
    ):
        open_source(str(tmp_path / "no.parquet"))
    pq.write_table(pa.table({"a": [b""], "b": [b""]}), tmp_path / "two.parquet")
    with pytest.raises(
        InputError, match=r"one image column .* got a, b; choose one as image-column, such as a"
    ):
        open_source(str(tmp_path / "two.parquet"))


def test_a_row_without_picture_is_named(tmp_path):
    pq.write_table(pa.table({"image": [png(0), None, b"text"]}), tmp_path / "x.parquet")
    source = open_source(str(tmp_path / "x.parquet"))
    with pytest.raises(InputError, match=r"x.parquet row 1: .* empty"):
        source.read(1)
    with pytest.raises(InputError, match=r"x.parquet row 2"):
        source.read(2)


def test_paths_in_cells_are_read_below_the_file_alone(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "a.png").write_bytes(png(7))
    (tmp_path / "b.png").write_bytes(png(8))
    paths = ["a.png", str(own / "a.png"), "../b.png", str(tmp_path / "b.png"), "/dev/zero"]
    cells = [{"bytes": None, "path": path} for path in paths]
    pq.write_table(pa.table({"image": cells}), own / "x.parquet")
    source = open_source(str(own / "x.parquet"))
    assert [int(np.asarray(source.read(i))[0, 0]) for i in range(2)] == [7, 7]
    for row in (2, 3, 4):
        with pytest.raises(InputError, match=rf"^x.parquet row {row}: expected a path below"):
            source.read(row)


@pytest.mark.parametrize(
    "note",
    [
        b"{",
        b"[1]",
        b"\xff",
        b'{"info": 1}',
        b'{"info": {"features": {"label": {"names": [1]}}}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_note_of_columns(tmp_path, note):
    table = pa.table({"image": [png(0)]}).replace_schema_metadata({"huggingface": note})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(InputError, match="got a damaged one; copy the file again"):
        open_source(str(tmp_path / "x.parquet"))


def test_a_note_of_a_column_of_lists_is_passed_over(tmp_path):
    note = json.dumps({"info": {"features": {"image": {"_type": "Image"}, "boxes": [{"x": 1}]}}})
    table = pa.table({"image": [png(0)], "boxes": [[1]]})
    pq.write_table(table.replace_schema_metadata({"huggingface": note}), tmp_path / "x.parquet")
    assert open_source(str(tmp_path / "x.parquet")).class_names == ()


def test_bombs_in_a_row_group(tmp_path, monkeypatch):
    for name, cells in (("x", [bytes(2**20), png(1)]), ("y", [png(1)])):
        pq.write_table(pa.table({"image": cells}), tmp_path / f"{name}.parquet", compression="gzip")
    monkeypatch.setattr("convflow.data.files._FREE_BYTES", 2**16)
    assert levels(open_source(str(tmp_path / "y.parquet"))) == [1]
    with pytest.raises(
        InputError,
        match=r"row 1: expected at most 100 bytes out of each packed",
    ):
        open_source(str(tmp_path / "x.parquet")).read(1)


def test_not_a_parquet_file(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"text")
    with pytest.raises(InputError, match="expected parquet files"):
        open_source(str(tmp_path / "x.parquet"))


def test_the_cache_keeps_what_was_used_last():
    loads = []

    def load(key):
        loads.append(key)
        return np.zeros(10, np.uint8)

    cache = _Cache(load, limit_bytes=25)
    for key in (0, 1, 0, 2, 0, 1):
        cache[key]
    assert loads == [0, 1, 2, 1]


def test_damaged_statistics_of_a_column_do_not_end_the_process():
    """Found by the fuzz as parquet:15:4453: to ask for the sizes of a column aborts in pyarrow."""
    path = Path(__file__).parents[1] / "goldens/damaged_histogram.parquet"
    code = f"from convflow.data.sources import open_source; open_source({str(path)!r}).read(0)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 1
    assert "row 0: expected a readable image" in found.stderr
