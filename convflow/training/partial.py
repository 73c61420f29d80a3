"""Weights taken in part: what fits by name and shape, and what of a head still serves."""

from __future__ import annotations

from torch import Tensor, nn

from convflow.models.backbone import Backbone

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
    if set(predictions) == OPPOSITE:
        ends = {id(p): n for n, p in model.named_parameters()}
        flipped = [ends[id(p)] for p in model.inner.parts.head.out.parameters()]
        fits |= {key: -fits[key] for key in flipped if key in fits}
        lines += [f"{', '.join(flipped)}: negated, for {predictions[1]} is predicted in {name}"]
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


def head_tensors(model: Backbone, trained: Backbone) -> dict[str, Tensor]:
    """Return tensors for the head of a network that learns a variance where the other does not.

    The outputs of a head are cells by channels, the channels of the prediction first. What is added
    for a variance stays as the new network has it.
    """
    if model.learned_variance == trained.learned_variance:
        return {}
    if model.in_channels != trained.in_channels:
        return {}
    out: nn.Module = model.inner.parts.head.out
    own, given = model.state_dict(), trained.state_dict()
    names = {id(p): n for n, p in model.named_parameters()}
    found = {}
    for key in (names[id(parameter)] for parameter in out.parameters()):
        new, old = own[key], given.get(key)
        channels = model.in_channels * (2 if model.learned_variance else 1)
        theirs = trained.in_channels * (2 if trained.learned_variance else 1)
        if old is None or old.shape[1:] != new.shape[1:]:
            continue
        if new.shape[0] // channels != old.shape[0] // theirs:
            continue
        cells = new.clone().unflatten(0, (-1, channels))
        cells[:, : model.in_channels] = old.unflatten(0, (-1, theirs))[:, : model.in_channels]
        found[key] = cells.flatten(0, 1)
    return found
