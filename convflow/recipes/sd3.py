"""Stable Diffusion 3 trained on in scales (DFM), on images with captions."""

from __future__ import annotations

from dataclasses import replace

from convflow.codecs import LatentCodec
from convflow.recipes import flux
from convflow.texts import PretrainedText
from convflow.training.config import TrainConfig

MEDIUM = {
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 192,
}
"""Where the medium network differs from the defaults of its class in diffusers."""


def dfm() -> TrainConfig:
    """Stable Diffusion 3 medium in two scales at 512, the settings of `flux.dfm` (not run)."""
    place = "stabilityai/stable-diffusion-3-medium-diffusers"
    model = {"name": "diffusers", "architecture": "SD3Transformer2DModel", "options": MEDIUM}
    text = PretrainedText(place, max_tokens=333, dtype="bfloat16", width=4096, pooled=2048)
    codec = LatentCodec(f"{place}/vae")
    return replace(flux.dfm(), model=model, init=place, codec=codec, text=text)
