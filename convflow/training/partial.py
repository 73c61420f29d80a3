"""Weights taken in part: what fits by name and shape, and what of a head still serves."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from convflow.models.backbone import Backbone, ImageBackbone
from convflow.nn.conv import ConvHead
from convflow.nn.embed import PatchHead

OPPOSITE = {"noise", "velocity"}
"""Predictions of opposite sign: with little data in x, the velocity is about minus the noise."""


def take_what_fits(
    model: Backbone, trained: Backbone, name: str, predictions: tuple[str, str]
) -> list[str]:
    """Copy tensors of the same name and shape; return how many, and a line for each other.

    Of a head with other channels for a variance, the channels of the prediction are taken. A head
    that predicts noise is negated where a velocity is to be predicted, and the other way round.

    Args:
        model: the new network, changed.
        trained: of the same family.
        name: of the weights, for the lines.
        predictions: of the new network and of the trained one.
    """
    own, given = model.state_dict(), trained.state_dict()
    heads = {**head_tensors(model, trained)}
    lines = [
        f"{key}: {shape_of(own, key)} here, {shape_of(given, key)} in {name}; the channels of the "
        "prediction taken"
        for key in sorted(heads)
    ]
    fits = {n: t for n, t in given.items() if n in own and t.shape == own[n].shape} | heads
    if set(predictions) == OPPOSITE and (head := _Head.of(model)):
        flipped = [key for key in head.names if key in fits]
        fits |= {key: head.negated(fits[key], model.in_channels) for key in flipped}
        if flipped:
            lines += [f"{', '.join(flipped)}: negated, for {name} predicts {predictions[1]}"]
    model.load_state_dict(fits, strict=False)
    rest = [
        f"{key}: {shape_of(own, key)} here, {shape_of(given, key)} in {name}; "
        + ("drawn anew" if key in own else "left out")
        for key in sorted((own.keys() | given.keys()) - fits.keys())
    ]
    return [f"weights: {len(fits)} of {len(own)} tensors taken from {name}", *lines, *rest]


def shape_of(tensors: dict[str, Tensor], key: str) -> str:
    """Return the shape of a tensor as a line shows it."""
    return str(tuple(tensors[key].shape)) if key in tensors else "missing"


class _Head(NamedTuple):
    """The last layer of a network, whose outputs are cells by channels, the prediction first."""

    names: list[str]
    channels: int

    @classmethod
    def of(cls, model: Backbone) -> _Head | None:
        """Return the head of a network, None where it is of another kind."""
        if not isinstance(model, ImageBackbone):
            return None
        head = model.parts.head
        if not isinstance(head, PatchHead | ConvHead):
            return None
        names = {id(p): name for name, p in model.named_parameters()}
        channels = head.out_channels if isinstance(head, PatchHead) else head.out.out_channels
        return cls([names[id(p)] for p in head.out.parameters()], channels)

    def cells(self, tensor: Tensor) -> Tensor:
        """Return outputs by cell and channel."""
        return tensor.unflatten(0, (-1, self.channels))

    def negated(self, tensor: Tensor, count: int) -> Tensor:
        """Return a tensor with the other sign in its first channels of each cell."""
        cells = self.cells(tensor.clone())
        cells[:, :count] = -cells[:, :count]
        return cells.flatten(0, 1)


def head_tensors(model: Backbone, trained: Backbone) -> dict[str, Tensor]:
    """Return tensors for the head of a network that learns a variance where the other does not.

    What is there for a variance stays as the new network has it.
    """
    mine, theirs = _Head.of(model), _Head.of(trained)
    count = model.in_channels
    if not mine or not theirs or mine.channels == theirs.channels or count != trained.in_channels:
        return {}
    own, given, found = model.state_dict(), trained.state_dict(), dict[str, Tensor]()
    for key in mine.names:
        if key in given and own[key].shape[1:] == given[key].shape[1:]:
            new, old = mine.cells(own[key].clone()), theirs.cells(given[key])
            if len(new) == len(old):  # else of another size of patches
                new[:, :count] = old[:, :count]
                found[key] = new.flatten(0, 1)
    return found
