"""The families of networks by name, and the function that builds one from its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convflow.models.backbone import Backbone
from convflow.models.dico import DiCo
from convflow.models.dit import DiT, SiT
from convflow.models.fcdm import FCDM
from convflow.models.flowdcn import FlowDCN
from convflow.types import InputError, unknown_name

BACKBONES: dict[str, type[Backbone]] = {cls.family: cls for cls in (FlowDCN, DiCo, FCDM, DiT, SiT)}
"""The networks on one picture; around any of them goes a `Pyramid`."""


def build(
    family: object,
    settings: Mapping[str, Any],
    families: Mapping[str, type[Backbone]] = BACKBONES,
) -> Backbone:
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
    try:
        return families[family](**settings)
    except (TypeError, RuntimeError, KeyError) as error:
        raise InputError(f"{family} cannot be built from {settings}: {error}") from error
