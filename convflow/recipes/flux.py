"""FLUX.1-dev trained on in scales (DFM), on images with captions."""

from __future__ import annotations

from dataclasses import replace

from convflow.bundle.config import SamplingConfig
from convflow.codecs import LatentCodec
from convflow.processes.multiscale import MultiscaleFlow
from convflow.samplers.solvers import create_solver
from convflow.texts import PretrainedText
from convflow.training.config import DataConfig, EMAConfig, LoRAConfig, TrainConfig
from convflow.training.optimizers import AdamW

PLACE = "black-forest-labs/FLUX.1-dev"
BATCH = 192
NUM_STEPS, WARMUP_STEPS = 24_000, 2_000
"""At 512 pixels; the paper goes on to 32K steps, and to 1024 pixels."""


def dfm() -> TrainConfig:
    """FLUX.1-dev in two scales at 512, all weights, 24K steps (paper's settings, not run here)."""
    solver = create_solver("euler", steps=40, stage_steps=(30, 10), thresholds=(0.7,))
    return TrainConfig(
        model={
            "name": "diffusers",
            "architecture": "FluxTransformer2DModel",
            "options": {"guidance_embeds": True},
            "guidance": 1.0,
        },
        init=PLACE,
        data=DataConfig(path="", size=(512, 512), channels=3),
        codec=LatentCodec(f"{PLACE}/vae"),
        text=PretrainedText(PLACE, max_tokens=512, dtype="bfloat16", width=4096, pooled=768),
        process=MultiscaleFlow(factors=(2,)),
        optim=AdamW(
            lr=1e-5,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            warmup_images=WARMUP_STEPS * BATCH,
            clip=1.0,
        ),
        ema=EMAConfig(decay=0.9999),
        sampling=SamplingConfig(solver, guidance=3.0),
        images=NUM_STEPS * BATCH,
        batch_size=BATCH,
        precision="bfloat16",
    )


def dfm_lora() -> TrainConfig:
    """FLUX.1-dev in two scales at 512, adapters of rank 64 and the parts of scales (not run)."""
    return replace(dfm(), lora=LoRAConfig(rank=64))
