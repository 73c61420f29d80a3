"""The 1,797 handwritten digits that come with scikit-learn, 8x8 pixels, 10 classes."""

from convflow.bundle.config import SamplingConfig
from convflow.recipes import ReferenceCurve
from convflow.samplers.solvers import create_solver
from convflow.training.config import DataConfig, EMAConfig, TrainConfig
from convflow.training.optimizers import AdamW


def flowdcn() -> TrainConfig:
    """Handwritten digits 8x8, a 3 M FlowDCN; two minutes on a laptop CPU."""
    return TrainConfig(
        model={"name": "flowdcn", "width": 192, "depth": 5, "num_groups": 6, "reach": 2.0},
        data=DataConfig(path="digits", size=(8, 8), channels=1, flip=False),
        optim=AdamW(lr=2e-3, betas=(0.9, 0.99), warmup_images=5_000, schedule="linear"),
        ema=EMAConfig(decay=0.995),
        sampling=SamplingConfig(create_solver("heun", steps=20), guidance=1.5),
        images=56_000,
        batch_size=128,
    )


CURVES = {
    "flowdcn": ReferenceCurve(
        {5_120: 0.7035, 10_240: 0.6384},
        "Intel Xeon (Emerald Rapids), torch 2.13.0, one thread: convflow train digits.flowdcn "
        "--model.time-scale 1 --device cpu --precision float32, stopped after 10,368 images",
    )
}
"""What the recipes reached here."""
