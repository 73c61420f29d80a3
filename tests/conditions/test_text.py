"""Texts as conditions."""

import torch

from convflow.conditions.added import Added
from convflow.conditions.labels import cat, take
from convflow.conditions.text import Spelled, Text, Texts


def text(batch: int, value: float) -> Text:
    """Return features that all have one value, and a mask with padding at the end."""
    mask = torch.tensor([[True, True, False]]).expand(batch, 3)
    return Text(torch.full((batch, 3, 2), value), mask, torch.full((batch, 4), value))


EMPTY = text(1, 7.0)._replace(mask=torch.tensor([[True, False, False]]))


def test_null_is_the_empty_text_of_each_sample() -> None:
    none = Texts(EMPTY).null(text(5, 1.0))
    assert none.tokens.shape == (5, 3, 2)
    assert (none.tokens == 7).all()
    assert none.mask.tolist() == [[True, False, False]] * 5
    assert none.pooled.shape == (5, 4)
    assert (none.pooled == 7).all()


def test_null_takes_the_type_of_the_asked() -> None:
    asked = text(2, 1.0)
    asked = asked._replace(tokens=asked.tokens.bfloat16())
    assert Texts(EMPTY).null(asked).tokens.dtype == torch.bfloat16


def test_drop_changes_tokens_mask_and_pooled_of_the_same_rows() -> None:
    dropped = Texts(EMPTY).drop(text(3, 1.0), torch.tensor([False, True, False]))
    assert dropped.tokens[:, 0, 0].tolist() == [1, 7, 1]
    assert dropped.mask.sum(1).tolist() == [2, 1, 2]
    assert dropped.pooled[:, 0].tolist() == [1, 7, 1]


def test_vectors_that_ride_along_stay() -> None:
    cond = Added(text(2, 1.0), torch.ones(2, 6))
    conditions = Texts(EMPTY)
    assert conditions.null(cond).vectors is cond.vectors
    assert conditions.drop(cond, torch.tensor([True, True])).vectors is cond.vectors


def test_rows_are_taken_and_joined() -> None:
    both = cat([text(2, 1.0), text(1, 2.0)])
    assert both.pooled[:, 0].tolist() == [1, 1, 2]
    assert take(both, slice(2, 3)).tokens.shape == (1, 3, 2)


SPELLED = torch.tensor([[1, 7, 8], [1, 9, 0]])


def test_nothing_spelled_is_the_beginning_alone() -> None:
    assert Spelled().null(SPELLED).tolist() == [[1, 0, 0], [1, 0, 0]]
    assert Spelled().drop(SPELLED, torch.tensor([True, False])).tolist() == [[1, 0, 0], [1, 9, 0]]


def test_vectors_stay_beside_what_is_spelled() -> None:
    cond = Added(SPELLED, torch.ones(2, 6))
    assert Spelled().null(cond).vectors is cond.vectors
    assert Spelled().drop(cond, torch.tensor([True, True])).cond.tolist() == [[1, 0, 0]] * 2
