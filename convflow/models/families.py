"""The families of networks by name, and the function that builds one from its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch

from convflow.models.backbone import Backbone, PictureBackbone
from convflow.models.dico import DiCo
from convflow.models.dit import DiT, SiT
from convflow.models.fcdm import FCDM
from convflow.models.flowdcn import FlowDCN
from convflow.types import InputError, unknown_name

Network = TypeVar("Network", bound=Backbone)

BACKBONES: dict[str, type[PictureBackbone]] = {
    cls.family: cls for cls in (FlowDCN, DiCo, FCDM, DiT, SiT)
}
"""The networks on one picture; around any of them goes a `Pyramid`."""

LARGEST_SETTING, MOST_BLOCKS, MOST_PARAMETERS = 2**24, 256, 10**11
"""Beyond all networks: these tell a damaged file from a large model."""


def build(
    family: object,
    settings: Mapping[str, Any],
    families: Mapping[str, type[Network]],
) -> Network:
    """Return a new network of a family.

    Args:
        family: a name of `families`.
        settings: arguments of the network.
        families: the networks to choose from.

    Raises:
        InputError: an unknown family or setting, or a setting that does not fit.
    """
    if not isinstance(family, str) or family not in families:
        raise InputError(unknown_name("model family", family, families))
    accepted = families[family]._hub_mixin_init_parameters
    for key in settings:
        if key not in accepted:
            raise InputError(f"{family}: {unknown_name('setting', key, accepted)}")
        kind, value = accepted[key].annotation, settings[key]
        if kind in (int, "int") and isinstance(value, (float, bool)):
            raise InputError(
                f"{family}: expected a whole number for {key}, got {value!r}; write it "
                "without a point and without an exponent"
            )
        if kind in (bool, "bool") and not isinstance(value, bool):
            raise InputError(
                f"{family}: expected true or false for {key}, got {value!r}; write one of them"
            )
        _check_sense(family, key, value)
    try:
        with torch.device("meta"):  # counted before memory is taken
            count = sum(part.numel() for part in families[family](**settings).parameters())
        if count > MOST_PARAMETERS:
            raise InputError(
                f"{family}: expected at most {MOST_PARAMETERS:,} parameters, got {count:,}; "
                "choose a smaller width or depth"
            )
        return families[family](**settings)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # torch and Python answer odd numbers with nearly any
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{family} cannot be built from {str(dict(settings))[:300]}: {reason[:300]}"
        ) from error


def _check_sense(family: str, key: str, value: object) -> None:
    """Raise InputError for a number or list that would take forever to build."""
    values = value if isinstance(value, list | tuple) else [value]
    numbers = [number for number in values if isinstance(number, int | float)]
    most = MOST_BLOCKS if key.startswith("depth") else LARGEST_SETTING
    if len(values) > MOST_BLOCKS or not all(abs(number) <= most for number in numbers):
        raise InputError(
            f"{family}: expected at most {most:,} for {key}, got {str(value)[:80]}; "
            "choose a smaller one"
        )
