"""A detector of videos: brightness, contrast and motion on a 4x4 grid. It takes milliseconds."""

import torch
from torch.nn import functional as F


def load():
    """Return a function from uint8 videos (B, C, F, H, W) to features (B, 32)."""

    def detect(videos):
        grey = videos.float().mean(1) / 64
        motion = (grey[:, 1:] - grey[:, :-1]).abs().mean(1)
        return torch.cat(
            [F.adaptive_avg_pool2d(x, 4).flatten(1) for x in (grey.mean(1), motion)], 1
        )

    return detect
