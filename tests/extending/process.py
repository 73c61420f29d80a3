"""A process of a user: flow matching that trains more often near noise."""

from dataclasses import dataclass
from typing import Annotated

from convflow.processes.flow import FlowMatching
from convflow.settings.fields import Positive, doc


@dataclass(frozen=True)
class Power(FlowMatching):
    """Training times are u^power, u drawn as those of flow matching."""

    power: Annotated[Positive, doc("exponent of training times; above 1 favours noise")] = 2.0

    def draw_times(self, n, generator):
        """Return training times in [0, 1]."""
        return super().draw_times(n, generator) ** self.power
