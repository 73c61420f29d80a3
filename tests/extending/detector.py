"""A detector: random projections of a 4x4 thumbnail. It takes milliseconds."""

import torch
from torch.nn import functional as F


def load():
    """Return a function from uint8 images (B, C, H, W) to a dictionary of features."""
    generator = torch.Generator().manual_seed(0)
    project = torch.randn(16, 12, generator=generator)

    def detect(images):
        small = F.adaptive_avg_pool2d(images.float().mean(1, keepdim=True), 4).flatten(1) / 64
        rough = images.float().std(dim=(1, 2, 3)).unsqueeze(1) / 64
        features = torch.cat([small @ project.to(small.device), rough], 1)
        return {"features": features, "spatial": small, "logits": features[:, :5]}

    return detect
