"""CIFAR-10 (Krizhevsky 2009): 50,000 colour images of 32x32 pixels, 10 classes."""

from dataclasses import replace

from convflow.bundle.config import SamplingConfig
from convflow.processes.ddpm import DDPM
from convflow.processes.multiscale import MultiscaleFlow
from convflow.samplers.solvers import create_solver
from convflow.training.config import DataConfig, EMAConfig, OptimConfig, TrainConfig

SCALES = MultiscaleFlow(factors=(2,), decomposition="dct", location=0.5)
"""16x16 pixels, then 32x32, as was best for a small FlowDCN after 20,480 images and good for SiT
(`benchmarks/quality/dfm_sweep.py`, `dfm.py`). The paper has "laplacian" and 0, for latents.
"""

DFM_SAMPLING = SamplingConfig(
    create_solver("euler", steps=40, stage_steps=(30, 10), thresholds=(0.9,)), guidance=1.5
)
"""30 steps for 16x16 pixels, 10 for the rest of 32x32."""


def flowdcn() -> TrainConfig:
    """CIFAR-10 in pixel space, a 5 M FlowDCN with patch 2."""
    return TrainConfig(
        model={"name": "flowdcn", "width": 192, "depth": 8, "num_groups": 6, "patch_size": 2},
        data=DataConfig(path="hf:uoft-cs/cifar10", size=(32, 32), channels=3),
        optim=OptimConfig(lr=4e-4, betas=(0.9, 0.99), warmup_images=10_000),
        ema=EMAConfig(decay=0.999),
        sampling=SamplingConfig(create_solver("heun", steps=25), guidance=1.5),
        images=10_000_000,
        batch_size=64,
    )


def dico() -> TrainConfig:
    """CIFAR-10 in pixel space, a 5 M DiCo; otherwise like cifar10.flowdcn."""
    model = {"name": "dico", "width": 56, "depths": [3, 3, 3, 3, 3]}
    return replace(flowdcn(), model=model)


def fcdm() -> TrainConfig:
    """CIFAR-10 in pixel space, a 5 M FCDM; otherwise like cifar10.flowdcn."""
    model = {"name": "fcdm", "width": 64, "depths": [1, 2, 4, 2, 1]}
    return replace(flowdcn(), model=model)


def sit() -> TrainConfig:
    """CIFAR-10 in pixel space, a 5 M SiT with patch 2; otherwise like cifar10.flowdcn."""
    model = {"name": "sit", "width": 192, "depth": 8, "num_heads": 3, "patch_size": 2}
    return replace(flowdcn(), model=model)


def dit() -> TrainConfig:
    """CIFAR-10 in pixel space, network and settings of cifar10.sit, trained with DDPM."""
    model = sit().model | {"name": "dit"}
    return replace(sit(), model=model, process=DDPM())


def flowdcn_dfm() -> TrainConfig:
    """CIFAR-10 in two scales, 16 to 32 pixels, a 5 M FlowDCN; otherwise like cifar10.flowdcn."""
    return replace(flowdcn(), process=SCALES, sampling=DFM_SAMPLING)


def dico_dfm() -> TrainConfig:
    """CIFAR-10 in two scales as published, a 5 M DiCo; otherwise like cifar10.dico."""
    return replace(dico(), process=MultiscaleFlow(factors=(2,)), sampling=DFM_SAMPLING)


def sit_dfm() -> TrainConfig:
    """CIFAR-10 in two scales, 16 to 32 pixels, a 5 M SiT; otherwise like cifar10.sit."""
    return replace(sit(), process=SCALES, sampling=DFM_SAMPLING)
