"""How far the parameters of a network are from its end, in blocks."""

from __future__ import annotations

from torch import nn

from convflow.models.backbone import Backbone
from convflow.models.dico import Stack
from convflow.nn.conv import ConvHead
from convflow.nn.embed import PatchHead
from convflow.nn.pyramid import CoarseHead
from convflow.nn.resample import Hourglass
from convflow.types import InputError


def blocks_above(network: nn.Module) -> dict[int, int]:
    """Return for each parameter of a network, by its `id`, how many blocks and heads follow.

    Of a head that is 0, of the last block 1, and of what stands in front of the first block, such
    as the embeddings, one more than there are blocks. A layer between two stages counts with the
    block that follows it.

    Raises:
        InputError: a network without blocks.
    """
    blocks = network.trunk_blocks if isinstance(network, Backbone) else []
    if not blocks:
        raise InputError(
            "--optim.layer-decay: expected a network whose blocks have a Modulation, got one "
            "without; leave it out"
        )
    places = {id(block): len(blocks) - place for place, block in enumerate(blocks)}
    above = {id(p): len(blocks) + 1 for p in network.parameters()}
    parts: list[tuple[nn.Module, int]] = [(block, places[id(block)]) for block in blocks]
    for module in network.modules():
        if isinstance(module, PatchHead | ConvHead | CoarseHead):
            parts.append((module, 0))
        elif isinstance(module, Hourglass | Stack):
            parts += [(layer, places[id(block)]) for layer, block in module.joints()]
    return above | {id(p): place for part, place in parts for p in part.parameters()}
