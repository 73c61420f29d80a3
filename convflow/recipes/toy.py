"""Toy data that is drawn: `shapes`, exact at any size, so that samples can be held against truth.

One object of six classes a picture; nothing to download. `convflow.evaluation.objects` counts and
recognises the objects of samples, also at sizes the network was not trained on.
"""

from dataclasses import replace

from convflow.training.config import (
    DataConfig,
    EMAConfig,
    OptimConfig,
    SamplingConfig,
    TrainConfig,
)


def shapes() -> TrainConfig:
    """Drawn shapes 32x32 in pixel space, a 1.3 M FlowDCN with patch 2."""
    return TrainConfig(
        model={"name": "flowdcn", "width": 96, "depth": 8, "num_groups": 3, "patch_size": 2},
        data=DataConfig(path="shapes", size=(32, 32), channels=3, flip=False),
        optim=OptimConfig(lr=1e-3, betas=(0.9, 0.99), warmup_images=10_000),
        ema=EMAConfig(decay=0.999),
        sampling=SamplingConfig(solver="heun", steps=25, guidance=1.5),
        images=1_000_000,
        batch_size=64,
    )


def shapes_dico() -> TrainConfig:
    """Drawn shapes 32x32 in pixel space, a 1.3 M DiCo; all else as in toy.shapes."""
    model = {"name": "dico", "width": 28, "depths": [3, 3, 3, 3, 3]}
    return replace(shapes(), model=model)


def shapes_fcdm() -> TrainConfig:
    """Drawn shapes 32x32 in pixel space, a 1.3 M FCDM; all else as in toy.shapes."""
    model = {"name": "fcdm", "width": 32, "depths": [1, 2, 4, 2, 1]}
    return replace(shapes(), model=model)


def shapes_sit() -> TrainConfig:
    """Drawn shapes 32x32 in pixel space, a 1.4 M SiT with patch 2; all else as in toy.shapes."""
    model = {"name": "sit", "width": 96, "depth": 8, "num_heads": 3, "patch_size": 2}
    return replace(shapes(), model=model)
