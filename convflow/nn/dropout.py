"""Dropout of features (Srivastava et al. 2014), with masks that seeds of the samples decide.

A mask is a hash of a seed and of places, not a draw of a generator. So a sample has the same one on
any number of processes, in any part of a batch, and where a block is computed again.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from convflow.types import InputError

LOW_BITS = 2**31 - 1
WEYL, STRIDE, MULTIPLIER = 0x1E3779B1, 0x45D9F3B, 0x2C1B3C6D
"""Odd numbers below 2^31, with which products of two words stay below 2^62."""


class Dropout(nn.Module):
    """Features of which a share is zero, and the others larger by 1 / (1 - share).

    Only where a training takes gradients; there `tell_seeds` comes first. It has no parameters.

    Attributes:
        share: of the features that are zero; 0 at first, as published networks have it.
        place: another number in each of a network.
        seeds: (B,) int64 in [0, 2^31), one for each sample of the next call, of this place.
            They are a tensor alone, so that compiled blocks of several places share a graph.
    """

    def __init__(self) -> None:
        super().__init__()
        self.share, self.place = 0.0, 0
        self.seeds: Int[Tensor, " B"] | None = None

    def forward(self, x: Float[Tensor, "B *N D"]) -> Float[Tensor, "B *N D"]:
        """Return the features, some of them zero.

        Raises:
            InputError: no seeds, or those of another number of samples.
        """
        if not (self.share and self.training and torch.is_grad_enabled()):
            return x
        if self.seeds is None or len(self.seeds) != len(x):
            got = "none" if self.seeds is None else f"those of {len(self.seeds)}"
            raise InputError(
                f"--dropout: expected seeds of the {len(x)} samples that a network is called with, "
                f"got {got}; call it with the images of the batch, or leave --dropout out"
            )
        kept = kept_features(self.seeds.to(x.device), x[0].numel(), self.share)
        return torch.where(kept.view(x.shape), x / (1 - self.share), 0)


def seeds_at(seeds: Int[Tensor, " B"], place: int) -> Int[Tensor, " B"]:
    """Return the seeds of samples in one of the places of a network."""
    return (seeds + (1 + place) * STRIDE) & LOW_BITS


def kept_features(seeds: Int[Tensor, " B"], count: int, share: float) -> Bool[Tensor, "B {count}"]:
    """Return which of `count` features of each sample stay: all but about a share."""
    rows = _mix(_mix(seeds))
    index = (torch.arange(count, device=seeds.device) * WEYL) & LOW_BITS
    return _mix((rows[:, None] + index) & LOW_BITS) >= share * 2**31


def _mix(words: Int[Tensor, "*N"]) -> Int[Tensor, "*N"]:
    """Return words of 31 bits as other such words, one for one."""
    words = ((words ^ (words >> 15)) * MULTIPLIER) & LOW_BITS
    return words ^ (words >> 16)


def set_dropout(network: nn.Module, share: float) -> None:
    """Let a network drop a share of its features in training.

    Raises:
        InputError: a network without a place for it.
    """
    found = [module for module in network.modules() if isinstance(module, Dropout)]
    if share and not found:
        raise InputError(
            f"--dropout: expected a network with dropout in its blocks, got "
            f"{type(network).__name__} without; put convflow.nn.dropout.Dropout there, or leave "
            "--dropout out"
        )
    for place, module in enumerate(found):
        module.share, module.place = share, place


def tell_seeds(network: nn.Module, seeds: Int[Tensor, " B"]) -> None:
    """Give a network the seeds of the samples that it is called with next."""
    for module in network.modules():
        if isinstance(module, Dropout):
            module.seeds = seeds_at(seeds, module.place)
