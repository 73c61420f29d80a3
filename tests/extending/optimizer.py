"""An optimizer: torch's SGD with Nesterov's momentum."""

from dataclasses import dataclass
from typing import Annotated

import torch

from convflow.settings.fields import Momentum, NotNegative, doc
from convflow.training.optimizers import OptimConfig


@dataclass(frozen=True)
class SGD(OptimConfig):
    """Stochastic gradient descent; it has the settings of every optimizer too, such as `lr`."""

    momentum: Annotated[Momentum, doc("Nesterov's momentum")] = 0.9
    weight_decay: Annotated[NotNegative, doc("weight decay")] = 0.0

    def create(self, model):
        """Return one of torch's optimizers over all parameters that are trained."""
        groups = self.groups(model, self.weight_decay)
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=True)
