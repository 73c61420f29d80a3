"""Your own folder of images: `convflow train pictures.flowdcn --data path/to/folder`."""

from convflow.bundle.config import SamplingConfig
from convflow.samplers.solvers import create_solver
from convflow.training.config import DataConfig, EMAConfig, OptimConfig, TrainConfig


def flowdcn() -> TrainConfig:
    """Any folder of images at 64x64, a 13 M FlowDCN with patch 4."""
    return TrainConfig(
        model={"name": "flowdcn", "width": 256, "depth": 12, "num_groups": 8, "patch_size": 4},
        data=DataConfig(path="", size=(64, 64), channels=3),
        optim=OptimConfig(lr=3e-4, betas=(0.9, 0.99), warmup_images=20_000),
        ema=EMAConfig(decay=0.9995),
        sampling=SamplingConfig(create_solver("heun", steps=25), guidance=1.5),
        images=10_000_000,
        batch_size=64,
    )
