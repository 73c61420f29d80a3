"""The loss of a training step: network and objectives as one module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from convflow import distributed
from convflow.models.backbone import Backbone
from convflow.objectives.objective import FirstCall, Inputs, Objective
from convflow.objectives.regression import Regression
from convflow.objectives.table import OWN, Weighted
from convflow.parallel.single import Single
from convflow.training.augmentation import Augmentation, told


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


def blank(rows: Tensor | None) -> Any:
    """Return one row of zeros like those of a tensor, which may have none; None for None."""
    return None if rows is None else rows.new_zeros(1, *rows.shape[1:])


class Losses(nn.Module):
    """Everything that is trained, as one module that an engine of `parallel` can prepare.

    Args:
        network: the network.
        objectives: by name, with their weights.
        augmentation: of the images; None for none.
    """

    def __init__(
        self,
        network: Backbone,
        objectives: Mapping[str, Weighted],
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.augmentation = augmentation
        self.objectives = nn.ModuleDict({name: w.objective for name, w in objectives.items()})
        self.weighted = dict(objectives)
        found = [weighted.objective for weighted in objectives.values()]
        self.blocks = {block for o in found for block in o.wants.features}
        self.of_users = ":" in network.family or not all(
            isinstance(o, Regression) for o in found
        )  # whose parameters may not all take part in every step
        self.wants_average = any(o.wants.average for o in found)
        self.wants_pixels = any(o.wants.pixels for o in found)
        self.wants_first = any(o.wants.first for o in found)
        self.compares = [name for name, w in objectives.items() if w.objective.wants.batch]

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
        if self.augmentation is not None and batch.told is not None:
            vectors = self.augmentation(batch.told)
            network = told(network, vectors)
            if batch.average is not None:
                batch = batch._replace(average=told(batch.average, vectors))
        if self.wants_first:
            batch = batch._replace(first=FirstCall(draws[OWN]))
            network = _noting(network, batch.first)
        weights = {n: w.weight_at(batch.images_seen) for n, w in self.weighted.items()}
        with (backbone or self.network).features_after(self.blocks) as features:
            batch = batch._replace(features=features)
            for name, module in self.objectives.items():
                if not weights[name]:
                    continue
                objective: Objective = module  # type: ignore[assignment]
                for term, loss in objective.terms(network, batch, draws[name]).items():
                    terms[f"{name}.{term}"] = loss
                    weighted = loss * weights[name]
                    whole = weighted if whole is None else whole + weighted
        assert whole is not None, "an objective has at least one term"
        return whole, terms

    def forget_ended(self, images_seen: int) -> None:
        """Take gradients from parameters of objectives that weigh nothing now.

        FSDP2 gives them zeros where they take no part; an optimizer would move them all the same.
        """
        for name, weighted in self.weighted.items():
            if not weighted.weight_at(images_seen):
                for parameter in self.objectives[name].parameters():
                    parameter.grad = None


def _noting(network: Callable[..., Any], first: FirstCall | None) -> Callable[..., Any]:
    """Return the network; what it returns at first is noted in `first`."""
    assert first is not None

    def noted(*given: Any, **named: Any) -> Any:
        output = network(*given, **named)
        if first.output is None:
            first.output = output
        return output

    return noted
