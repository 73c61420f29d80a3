"""Labels: names before indices, numbers as names, and equal names of other Unicode forms."""

import logging

import numpy as np
import pytest

from convflow.class_names import ClassLabels, imagenet_classes
from convflow.types import InputError

NUMBERED = ("1", "10", "2", "3")  # as folders of these names are sorted
MIXED = ("3", "cat", "dog", "hen")
DECOMPOSED = "cafe\u0301"  # as a Mac writes it
COMPOSED = "caf\u00e9"


@pytest.mark.parametrize(
    ("names", "label", "found"),
    [
        (NUMBERED, "3", 3),
        (NUMBERED, 3, 3),
        (NUMBERED, np.int64(10), 1),
        (NUMBERED, "1", 0),
        (NUMBERED, 1, 0),
        (MIXED, "3", 0),
        (MIXED, 3, 0),
        (MIXED, 1, 1),
        (MIXED, "2", 2),
        ((DECOMPOSED, "tea"), COMPOSED, 0),
        (("tea", COMPOSED), DECOMPOSED, 1),
        ((COMPOSED, DECOMPOSED), DECOMPOSED, 1),
        (("07", "08"), "07", 0),
    ],
)
def test_a_name_goes_before_an_index_and_a_number_is_its_text(names, label, found):
    assert ClassLabels(names, len(names)).find(label) == found


@pytest.mark.parametrize("label", [207, "207", "golden retriever", "n02099601"])
def test_a_class_of_imagenet_by_index_name_and_synset(label):
    classes = imagenet_classes()
    assert len(classes) == len({*classes.values()}) == 1000
    assert list(classes) == sorted(classes)
    assert ClassLabels(tuple(classes.values()), 1000).find(label) == 207


@pytest.mark.parametrize("label", [0, "0", "03", 7])
def test_where_all_names_are_numbers_no_number_is_an_index(label):
    with pytest.raises(InputError, match=f"unknown label {label!r}; .*a name and no index"):
        ClassLabels(NUMBERED, 4).find(label)


def test_a_line_says_once_where_name_and_index_disagree(caplog):
    caplog.set_level(logging.INFO, "convflow")
    labels = ClassLabels(("1", "2", "3", "10"), 4)
    for label in ("3", 3, "3", "10", 10):
        labels.find(label)
    assert caplog.messages == ["3 is taken as the class named '3' (index 3 is '10')"]


def test_digits_are_found_without_a_line(caplog):
    caplog.set_level(logging.INFO, "convflow")
    digits = ClassLabels([str(i) for i in range(10)], 10)
    assert [digits.find(i) for i in range(10)] == [digits.find(str(i)) for i in range(10)]
    assert not caplog.messages


@pytest.mark.parametrize("names", [(), ("True", "1")])
def test_a_truth_value_is_no_label(names):
    with pytest.raises(InputError, match=r"unknown label True; (?!did you mean 'True')"):
        ClassLabels(names, 2).find(True)
