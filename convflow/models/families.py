"""The families of networks by name, and the function that builds one from its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch

from convflow.models.backbone import Backbone, ImageBackbone
from convflow.models.dico import DiCo
from convflow.models.diffusers_network import DiffusersNetwork
from convflow.models.dit import DiT, SiT
from convflow.models.fcdm import FCDM
from convflow.models.flowdcn import FlowDCN
from convflow.settings.kinds import Table
from convflow.types import InputError

Network = TypeVar("Network", bound=Backbone)

BACKBONES: Table[type[ImageBackbone]] = Table(
    "model family", ImageBackbone, {cls.family: cls for cls in (FlowDCN, DiCo, FCDM, DiT, SiT)}
)
"""The networks on one image that are made here; around any of them goes a `Pyramid`."""

PRETRAINED: Table[type[ImageBackbone]] = Table(
    "model family", ImageBackbone, {DiffusersNetwork.family: DiffusersNetwork}
)
"""Networks of other libraries, of which published weights are the start."""

INSIDE: Table[type[ImageBackbone]] = Table(
    "model family", ImageBackbone, {**BACKBONES, **PRETRAINED}
)
"""What may be inside a `Pyramid`."""

MOST_PARAMETERS = 10**11
"""Beyond all networks: more tells a damaged file from a large model."""


def build(family: str, settings: Mapping[str, Any], families: Table[type[Network]]) -> Network:
    """Return a new network of a family.

    Args:
        family: a name of `families`, or `package.module:Name` of an imported module.
        settings: fields of the network's `Config`.
        families: the networks to choose from.

    Raises:
        InputError: an unknown family or setting, or a setting that does not fit.
    """
    network = families.find(family, trusted=False)
    try:
        with torch.device("meta"):  # counted before memory is taken
            count = sum(part.numel() for part in network(**settings).parameters())
        if count > MOST_PARAMETERS:
            raise InputError(
                f"{family}: expected at most {MOST_PARAMETERS:,} parameters, got {count:,}; "
                "choose a smaller width or depth"
            )
        return network(**settings)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # torch and Python answer odd numbers with nearly any
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{family} cannot be built from {str(dict(settings))[:300]}: {reason[:300]}"
        ) from error
