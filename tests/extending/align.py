"""Alignment of a block's features with those of a small frozen network (REPA, Yu et al. 2024).

Used as --objectives.align.kind tests.extending.align:Align, beside the loss of the process.
"""

from torch import nn

from convflow.objectives.objective import Objective, Wants


class Align(Objective):
    """Minus the cosine similarity of projected features and those of a random convolution.

    Args:
        network: whose features are aligned.
        process: that the network is trained for; not used.
        block: after which the features are taken.
        width: channels of the frozen network.
    """

    def __init__(self, network, process, block=0, width=16):
        super().__init__()
        self.wants = Wants(features=(block,), pixels=True)
        self.block = block
        self.project = nn.Linear(network.feature_width(block), width)
        self.teacher = nn.Conv2d(1, width, 3, padding=1).requires_grad_(False)

    def terms(self, network, batch, draws):
        """Return one term, `similarity`, in [-1, 1]; -1 is best."""
        ours = self.project(batch.features[self.block])
        theirs = self.teacher(batch.pixels.float().mean(1, keepdim=True) / 127.5 - 1)
        theirs = nn.functional.adaptive_avg_pool2d(theirs, ours.shape[1:3]).movedim(1, -1)
        similarity = nn.functional.cosine_similarity(ours, theirs, dim=-1)
        return {"similarity": -similarity.flatten(1).mean(1)}
