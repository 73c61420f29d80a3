"""The loss of a training step: network and objectives as one module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from convflow import distributed
from convflow.models.backbone import Backbone
from convflow.objectives.objective import Inputs, Objective
from convflow.objectives.regression import Regression
from convflow.objectives.table import Weighted
from convflow.parallel.single import Single


def passes(
    count: int, total: int, micro_batch: int | None, parallel: Single
) -> list[tuple[slice, bool]]:
    """Return the rows of each forward pass of a step on this process, and whether it is blank.

    A blank pass adds nothing. It is there where others take one more and all must take part.

    Args:
        count: rows of this process.
        total: rows of all processes.
        micro_batch: most rows at once.
        parallel: says who takes part.
    """
    most = max(-(-total // distributed.world_size()), 1)
    size = micro_batch or most
    slices = [slice(start, start + size) for start in range(0, count, size)]
    blank = parallel.passes(len(slices), -(-most // size)) - len(slices)
    return [(rows, False) for rows in slices] + [(slice(0, 1), True)] * blank


class Losses(nn.Module):
    """Everything that is trained, as one module that an engine of `parallel` can prepare.

    Args:
        network: the network.
        objectives: by name, with their weights.
    """

    def __init__(self, network: Backbone, objectives: Mapping[str, Weighted]) -> None:
        super().__init__()
        self.network = network
        self.objectives = nn.ModuleDict({name: o for name, (o, _) in objectives.items()})
        self.weights = {name: weight for name, (_, weight) in objectives.items()}
        self.blocks = {block for o, _ in objectives.values() for block in o.wants.features}
        self.of_users = any(not isinstance(o, Regression) for o, _ in objectives.values()) or (
            ":" in network.family
        )  # whose parameters may not all take part in every step
        self.wants_average = any(o.wants.average for o, _ in objectives.values())
        self.wants_pixels = any(o.wants.pixels for o, _ in objectives.values())

    def forward(
        self,
        network: Callable[..., Any],
        batch: Inputs,
        draws: Mapping[str, Any],
        backbone: Backbone | None = None,
    ) -> tuple[Float[Tensor, " B"], dict[str, Float[Tensor, " B"]]]:
        """Return the loss of each image, and its terms as `objective.term`, without weights.

        Args:
            network: this network with what it is told at the size of the batch.
            batch: the images; features are added.
            draws: of each objective, for these images.
            backbone: what `network` calls, if it is not this network but its average.
        """
        terms: dict[str, Tensor] = {}
        whole: Tensor | None = None
        with (backbone or self.network).features_after(self.blocks) as features:
            batch = batch._replace(features=features)
            for name, module in self.objectives.items():
                objective: Objective = module  # type: ignore[assignment]
                for term, loss in objective.terms(network, batch, draws[name]).items():
                    terms[f"{name}.{term}"] = loss
                    weighted = loss * self.weights[name]
                    whole = weighted if whole is None else whole + weighted
        assert whole is not None, "an objective has at least one term"
        return whole, terms
