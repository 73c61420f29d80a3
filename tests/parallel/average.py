"""Objectives for engines: one that calls the averaged network, and the network twice."""

from torch import nn

from convflow.objectives.objective import Objective, Wants


class Follow(Objective):
    """The distance of a scaled prediction to that of the averaged network, at two times."""

    wants = Wants(average=True)

    def __init__(self, network, process):
        super().__init__()
        self.scale = nn.Linear(1, 1)

    def terms(self, network, batch, draws):
        """Return the term `distance` of each image."""
        times = batch.data.new_full((len(batch.data),), 0.5)
        first, second = (network(batch.data, t, batch.labels) for t in (times, times / 2))
        target = batch.average(batch.data, times, batch.labels).detach()
        scaled = self.scale((first + second).unsqueeze(-1)).squeeze(-1)
        return {"distance": (scaled - target).square().flatten(1).mean(1)}
