"""Columns of images, labels and splits are found, or asked for."""

import pytest

from convflow.data.sources import open_source
from convflow.types import InputError
from tests.data.made import labels_of, levels, png, rows

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def test_several_columns_of_labels_are_asked_about(tmp_path):
    path = rows(tmp_path / "x.parquet", fine_label=WORDS, coarse_label=["c", "c", "c", "d"])
    message = "got fine_label, coarse_label; name one with --data.label-column fine_label"
    with pytest.raises(InputError, match=message):
        open_source(path)
    assert open_source(path, label_column="coarse_label").class_names == ("c", "d")
    with pytest.raises(
        InputError, match=r"did you mean 'fine_label'.* has fine_label, coarse_label"
    ):
        open_source(path, label_column="fine_labels")
    with pytest.raises(InputError, match=r"one column of labels in .* got kind, colour"):
        open_source(rows(tmp_path / "y.parquet", kind=WORDS, colour=WORDS))
    with pytest.raises(InputError, match="expected auto, table or none for the table"):
        open_source(path, labels="folders")


WORDS = ["a", "b", "a", "b"]


@pytest.mark.parametrize("column", [list("wxyz"), ["a"] * 4, [*"aba", None], [1, 2, 1, 2]])
def test_other_columns_are_no_labels(tmp_path, column):
    path = rows(tmp_path / "x.parquet", kind=column)
    assert open_source(path).notes == (
        "no classes: the model will be unconditional (no column is known to hold labels)",
        "columns not used: kind",
    )
    with pytest.raises(InputError, match=r"expected a column of labels in .*, got kind; name one"):
        open_source(path, labels="table")


def test_rows_are_chosen_by_a_column_of_splits(tmp_path):
    parts = ["train", "Test", "train", "unlabeled"]
    path = rows(tmp_path / "x.parquet", Split=parts, label=["a", "b", "b", "c"])
    source = open_source(path)
    assert (levels(source), labels_of(source), source.class_names) == ([0, 2], [0, 1], ("a", "b"))
    assert source.item_name(1) == "x.parquet row 2"
    assert source.notes == (
        "split train of train, test, unlabeled, by column `Split`",
        "labels from column `label`: 2 classes, a, b",
    )
    assert levels(open_source(path, "test")) == levels(open_source(str(tmp_path), "test")) == [1]
    assert levels(open_source(path, "all")) == [0, 1, 2]
    with pytest.raises(InputError, match=r"'validation' split .* got train, test, unlabeled"):
        open_source(path, "validation")
    assert len(open_source(rows(tmp_path / "y.parquet", split=["1", "2"]))) == 2
    with pytest.raises(InputError, match=r"in every row of column `split`, got None; mend"):
        open_source(rows(tmp_path / "z.parquet", split=["test", None]))
    (tmp_path / "named").mkdir()
    rows(tmp_path / "named/test-0.parquet", split=["test", "test"])
    rows(tmp_path / "named/train-0.parquet", split=["train"])
    assert len(open_source(str(tmp_path / "named/test-0.parquet"))) == 2
    assert len(open_source(str(tmp_path / "named"))) == 1


def test_the_image_column_is_named(tmp_path):
    table = pa.table({"before": [png(1)], "after": [png(2)], "label": ["a"]})
    pq.write_table(table, tmp_path / "x.parquet")
    path = str(tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"got before, after; choose one as image-column"):
        open_source(path)
    assert levels(open_source(path, image_column="after")) == [2]
    with pytest.raises(InputError, match="expected a column of images, got label"):
        open_source(path, image_column="label")


@pytest.mark.parametrize(
    "column",
    ["class", "category", "target", "fine_label", "species", "className", "Labels", "kind"],
)
def test_the_one_column_of_labels_is_found(tmp_path, column):
    path = rows(tmp_path / "x.parquet", text=list("wxyz"), **{column: WORDS}, width=[1, 2, 1, 2])
    source = open_source(path)
    assert (source.class_names, labels_of(source)) == (("a", "b"), [0, 1, 0, 1])
    guessed = ["the column is taken for labels because it alone is text of few words"]
    assert source.notes == (
        f"labels from column `{column}`: 2 classes, a, b",
        *(guessed if column == "kind" else []),
        "columns not used: width",
        "captions from column `text`",
    )
    assert open_source(path, labels="none").class_names == ()
    assert [source.caption(i) for i in range(4)] == list("wxyz")
    with pytest.raises(InputError, match="caption-column: expected a column of text, got width"):
        open_source(path, caption_column="width")


def test_columns_that_are_left_are_said(tmp_path):
    cells, path = [png(0), png(1)], tmp_path / "x.parquet"
    columns = {"image": cells, "mask": cells, "split": ["train", "test"]}
    pq.write_table(pa.table(columns), path)
    notes = open_source(str(path)).notes
    assert "columns not used: mask" in notes
    assert "split train of train, test, by column `split`" in notes
    pq.write_table(pa.table({"image": [cells], "label": ["a"]}), path)
    with pytest.raises(InputError, match=r"image \(list<.*binary>\), label \(string\); save"):
        open_source(str(path))
