"""Conditions of a batch: dropped, taken and joined, whatever tensors they are."""

import torch

from convflow.conditions.labels import Labels, cat, take

Y = torch.tensor([3, 7, 0])
TEXT = {"tokens": torch.randn(3, 5, 2), "mask": (torch.ones(3, 5), Y)}


def test_labels_are_dropped_to_no_label():
    labels = Labels(10)
    assert labels.null(Y).tolist() == [10, 10, 10]
    dropped = labels.drop(Y, torch.tensor([True, False, True]))
    assert (dropped.tolist(), dropped.dtype) == ([10, 7, 10], torch.int64)
    assert Y.tolist() == [3, 7, 0]


def test_rows_of_labels_and_of_nested_tensors_are_taken_and_joined():
    assert cat([take(Y, slice(1, None)), take(Y, torch.tensor([0]))]).tolist() == [7, 0, 3]
    again = cat([take(TEXT, slice(0, 1)), take(TEXT, slice(1, 3))])
    assert again["tokens"].equal(TEXT["tokens"])
    assert again["mask"][1].equal(Y)
