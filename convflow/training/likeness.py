"""Whether a trained network is the one that a new run builds, and which options make it so."""

from __future__ import annotations

from typing import Any

from convflow.models.backbone import Backbone
from convflow.models.families import PRETRAINED
from convflow.models.text import OF_TEXT
from convflow.processes.contract import MoreChannels
from convflow.settings.read import differences, show
from convflow.types import InputError


def check_same(model: Backbone, trained: Backbone, name: str, more: MoreChannels) -> None:
    """Raise InputError naming the settings in which two networks differ, but for the classes."""
    found = sorted(differences(model.settings, trained.settings).items())
    free = {"num_classes", "position_grid", "guidance"}
    if model.family in PRETRAINED:  # the text encoders say these
        free |= {"text_width", "pooled_width", "text_length"}
    for told in ("second_time", "told_guidance"):
        if getattr(model, told) and not getattr(trained, told):  # which begins as nothing
            free.add(told)
    if model.video and not trained.video:  # begins as pictures, frame by frame
        free.add("temporal")
    families = [row for row in found if row[0].split(".")[-1] == "family"]
    differing = families or [row for row in found if row[0].split(".")[-1] not in free]
    if differing:
        said = ", ".join(f"{key} {theirs}, here {ours}" for key, (ours, theirs) in differing)
        cures = [_cure(key.split(".")[-1], theirs, ours, more) for key, (ours, theirs) in differing]
        raise InputError(
            f"--init: expected the network of these settings and data, got {name} with {said}; "
            f"add {' '.join(dict.fromkeys(cures))}, or give other weights, or --init-partial true"
        )


def _cure(key: str, theirs: Any, ours: Any, more: MoreChannels) -> str:
    """Return the option that makes a setting of a network that of the trained one."""
    if key == "family":
        return f"--model.name {theirs}"
    if key == "in_channels":
        pixels = (1, 3)
        if theirs not in pixels:
            return "--codec latent with the autoencoder it was trained with"
        return f"--data.channels {theirs}" + ("" if ours in pixels else " --codec pixel")
    if key == "learned_variance":
        return more.chosen if theirs else more.refused
    if key in OF_TEXT:
        return "the text encoder it was trained with" if theirs else "--text none"
    if key in ("second_time", "told_guidance"):  # a network that is told less may begin from theirs
        return "--process meanflow" if key == "second_time" else "--process.guidance-max N"
    group = "process" if key == "factors" else "model"
    value = str(theirs).lower() if isinstance(theirs, bool) else show(theirs)
    return f"--{group}.{key.replace('_', '-')} {value}"
