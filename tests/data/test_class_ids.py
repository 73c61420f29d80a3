"""Where classes come from beside files of labels."""

import pytest

from convflow.data.class_ids import (
    find_column,
    from_folders,
    from_values,
    not_used,
    offer_names,
    prefix_of,
)
from convflow.types import InputError


def of(*values, names=None):
    return from_values(values, names, "row {}".format, "column `x`")


def test_text_numbers_and_names():
    assert of("b", "a2", "a10").class_names == ("a2", "a10", "b")
    assert of(1, 0, 1).ids.tolist() == [1, 0, 1]
    assert of(2, 0, names=["p", "q", "r"]).class_names == ("p", "q", "r")
    assert of("b", "a").notes == ("labels from column `x`: 2 classes, a, b",)
    many = of(*range(1000))
    assert many.notes == ("labels from column `x`: 1,000 classes, 0, 1, 2, 3, ...",)


def test_text_of_thousands_of_digits():
    assert of("9" * 5000, "10", "9").class_names == ("9", "10", "9" * 5000)


@pytest.mark.parametrize("names", [("Cat", "cat"), ("caf\u00e9", "cafe\u0301"), ("cat", "cat ")])
def test_names_that_look_the_same_are_said(names):
    said = "names of classes differ in case, spaces or Unicode form alone: "
    for found in (of(*names, "dog"), from_folders([(name,) for name in (*names, "dog")], "here")):
        assert len(found.class_names) == 3
        assert found.notes[1].startswith(said)
        assert "dog" not in found.notes[1]


@pytest.mark.parametrize("value", [None, -1])
def test_no_label_anywhere_is_unconditional(value):
    found = of(value, value)
    assert (found.ids.tolist(), found.class_names) == ([0, 0], ())
    assert found.notes == (
        "no classes: the model will be unconditional (column `x` has no labels)",
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", None, "b"], r"row 1: expected a label, got none \(1 of 3 have none\)"),
        ([0, 1, None], "row 2: expected a label, got none"),
        ([[0.1] * 20, [0.2]], r"row 0: expected an integer or text label, got \[0.1.*\.\.\.; mend"),
        (["a", "b", 1], "row 2: expected a text label like the first, got 1"),
        ([0, "b", "a"], "row 1: expected an integer or text label, got 'b'"),
        ([0, 2**63], "row 1: expected a label in 0.."),
    ],
)
def test_what_is_no_label_names_its_own_row(values, message):
    with pytest.raises(InputError, match=message):
        of(*values)


def test_folders():
    assert from_folders([("b", "deep"), ("a",), ("b",)], "x").ids.tolist() == [1, 0, 1]
    assert from_folders([(), ()], "x").class_names == ()
    with pytest.raises(InputError, match="2 folders with images beside 1 loose"):
        from_folders([("b",), ("a",), ()], "x")


def test_names_up_to_the_last_number():
    names = {
        "a/cat_0.png": "cat",
        "cat.12.jpg": "cat",
        "cat (3).png": "cat",
        "american_bulldog_100.jpg": "american_bulldog",
        "n01440764_10026.JPEG": "n01440764",
        "cat7.png": "cat",
        "cat.png": "",
        "123.png": "",
    }
    assert {name: prefix_of(name) for name in names} == names
    assert offer_names(["a1.png", "b1.png"])
    assert not offer_names(["a1.png", "b1.png", "c1.png"])
    assert offer_names(["train_1.png", "test_1.png"]) == (
        "file names look like splits (test, train); all files are taken",
    )
    assert not offer_names(["a1.png", "a2.png"])


def test_the_column_of_labels():
    def find(*columns, classes=(), words=lambda column: 0):
        return find_column(columns, classes, words, 10, "x")[0]

    assert find("text", "label", "species", classes=["odd"]) == "label"
    assert find("text", "odd", "n", classes=["odd"]) == "odd"
    assert find("text", "Class-Name") == "Class-Name"
    assert find("text", "n") is None
    counts = {"text": 2, "same": 1, "few": 5, "many": 6}
    assert find(*counts, words=counts.get) == "few"
    with pytest.raises(InputError, match=r"got class, target; name one with --data.label-column"):
        find("class", "target")
    assert not_used(["a", "b", "c"], "b", None) == ("columns not used: a, c",)
    assert not_used(["b"], "b") == ()


def test_labels_with_gaps_are_the_classes_there_are():
    found = from_values([7, 3, 7, 12], None, str, "here")
    assert found.ids.tolist() == [1, 0, 1, 2]
    assert found.class_names == ("3", "7", "12")
    assert found.notes[1].startswith("labels have gaps, such as 0:")
    assert len(from_values([1, 0], None, str, "here").notes) == 1
    with pytest.raises(InputError, match=r"1: expected a label in 0\.\.7, got -1"):
        from_values([7, -1], None, str, "here")
