"""An objective: align features of the network with those of a frozen one (REPA, Yu et al. 2024)."""

from torch import nn

from convflow.objectives.objective import Objective, Wants


class Align(Objective):
    """Minus the cosine similarity of projected features and those of a random convolution.

    Args:
        network: the network that is trained.
        process: the process that it is trained with; not used here.
        block: the block after which features are taken, counted from 0.
        width: channels of the frozen network.
    """

    def __init__(self, network, process, block=0, width=16):
        super().__init__()
        self.wants = Wants(features=(block,), pixels=True)
        self.block = block
        self.project = nn.Linear(network.feature_width(block), width)
        self.teacher = nn.Conv2d(1, width, 3, padding=1).requires_grad_(False)

    def terms(self, network, batch, draws):
        """Return the term `similarity` of each image, in [-1, 1]; -1 is best."""
        ours = self.project(batch.features[self.block])
        theirs = self.teacher(batch.pixels.float().mean(1, keepdim=True) / 127.5 - 1)
        theirs = nn.functional.adaptive_avg_pool2d(theirs, ours.shape[1:3]).movedim(1, -1)
        similarity = nn.functional.cosine_similarity(ours, theirs, dim=-1)
        return {"similarity": -similarity.flatten(1).mean(1)}
