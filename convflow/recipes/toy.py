"""Toy data that is drawn, exact at any size, so that samples can be held against truth.

One object of six classes an image (`shapes`), or a video in which it goes along a smooth path
(`moving`); nothing to download. `benchmarks.quality.objects` counts and recognises the objects of
images, also at sizes the network was not trained on, and `benchmarks.quality.moving` those of
videos.
"""

from dataclasses import replace

from convflow.bundle.config import SamplingConfig
from convflow.processes.flow import FlowMatching
from convflow.processes.multiscale import MultiscaleFlow
from convflow.samplers.solvers import create_solver
from convflow.training.config import DataConfig, EMAConfig, TrainConfig
from convflow.training.optimizers import AdamW


def shapes() -> TrainConfig:
    """Drawn shapes 32x32 in pixel space, a 0.5 M FlowDCN with patch 4: minutes on a laptop."""
    return TrainConfig(
        model={"name": "flowdcn", "width": 64, "depth": 6, "num_groups": 4, "patch_size": 4},
        data=DataConfig(path="shapes", size=(32, 32), channels=3, flip=False),
        process=FlowMatching(times="logit-normal", location=-0.3),
        optim=AdamW(lr=1.5e-3, betas=(0.9, 0.99), warmup_images=2048, schedule="linear"),
        ema=EMAConfig(decay=0.999),
        sampling=SamplingConfig(create_solver("heun", steps=25), guidance=1.5),
        images=100_000,
        batch_size=16,
    )


def shapes_dico() -> TrainConfig:
    """Drawn shapes 32x32 in pixel space, a 0.5 M DiCo; otherwise like toy.shapes."""
    model = {"name": "dico", "width": 24, "depths": [1, 1, 1, 1, 1]}
    return replace(shapes(), model=model)


def shapes_fcdm() -> TrainConfig:
    """Drawn shapes 32x32 in pixel space, a 0.4 M FCDM; otherwise like toy.shapes."""
    model = {"name": "fcdm", "width": 24, "depths": [1, 1, 1, 1, 1]}
    return replace(shapes(), model=model)


def shapes_sit() -> TrainConfig:
    """Drawn shapes 32x32 in pixel space, a 0.5 M SiT with patch 4; otherwise like toy.shapes."""
    model = {"name": "sit", "width": 64, "depth": 6, "num_heads": 4, "patch_size": 4}
    return replace(shapes(), model=model)


def moving() -> TrainConfig:
    """Drawn videos of 8 frames of 32x32 in pixel space, a 1.4 M FlowDCN: half an hour on a core."""
    config = shapes()
    return replace(
        config,
        model={**config.model, "width": 96, "depth": 8, "temporal": "conv"},
        data=DataConfig(path="moving", size=(8, 32, 32), channels=3, flip=False),
        images=40_000,
        batch_size=8,
    )


def moving_dfm() -> TrainConfig:
    """Drawn videos as two scales, of half the sides and half the frames; else like toy.moving."""
    return replace(moving(), process=MultiscaleFlow((2,), axes=("both",)))
