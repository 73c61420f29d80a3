"""Conditions of a batch, and class labels, the simplest of them.

A condition is a tensor whose first axis counts the samples, or tuples, lists and dictionaries of
such tensors: tokens, a mask and a pooled vector of a text, say. Dropping them in training: Ho &
Salimans 2022, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils._pytree import tree_map

from convflow.conditions.added import Added

AnyCond = TypeVar("AnyCond")


@runtime_checkable  # for the shape checks in tests
class Conditions(Protocol[AnyCond]):
    """What is asked of conditions of one kind."""

    def null(self, cond: AnyCond) -> AnyCond:
        """Return the conditions of as many samples of which nothing is known."""

    def drop(self, cond: AnyCond, mask: Bool[Tensor, " B"]) -> AnyCond:
        """Return the conditions, of nothing where the mask is set."""


@dataclass(frozen=True)
class Labels:
    """Class labels (B,), whole numbers from 0; `num_classes` stands for no label.

    Vectors that ride along (`Added`) stay as they are.

    Examples:
        >>> Labels(10).drop(torch.tensor([3, 7]), torch.tensor([True, False]))
        tensor([10,  7])
    """

    num_classes: int

    def null(self, cond: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Return as many times no label."""
        if isinstance(cond, Added):
            return cond._replace(cond=self.null(cond.cond))
        return torch.full_like(cond, self.num_classes)

    def drop(self, cond: Int[Tensor, " B"], mask: Bool[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Return the labels, no label where the mask is set."""
        if isinstance(cond, Added):
            return cond._replace(cond=self.drop(cond.cond, mask))
        return cond.masked_fill(mask, self.num_classes)


def take(cond: AnyCond, rows: slice | Int[Tensor, " R"]) -> AnyCond:
    """Return the conditions, or whatever has tensors of a row for each sample, of some samples."""
    return tree_map(lambda part: part if part is None else part[rows], cond)


def cat(conds: Sequence[AnyCond]) -> AnyCond:
    """Return the conditions of several batches as those of one."""
    return tree_map(lambda *parts: torch.cat(parts), *conds)
