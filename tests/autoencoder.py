"""Tiny autoencoders with random weights, for all that works in their latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch


def save_autoencoder(folder: Path) -> str:
    """Save a seeded `AutoencoderKL` of 8 pixels a cell and 4 channels; return the folder."""
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            norm_num_groups=4,
        )
    model.save_pretrained(folder)
    return str(folder)


WIDTHS = (8, 8, 8, 8)
TINY = {
    "AutoencoderKL": {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": WIDTHS,
        "norm_num_groups": 4,
        "latent_channels": 16,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    "AutoencoderKLFlux2": {
        "block_out_channels": WIDTHS,
        "norm_num_groups": 4,
        "latent_channels": 4,
        "layers_per_block": 1,
    },
    "AutoencoderDC": {
        "latent_channels": 8,
        "attention_head_dim": 8,
        "encoder_block_out_channels": (8, 8, 16),
        "decoder_block_out_channels": (8, 8, 16),
        "encoder_layers_per_block": (1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1),
        "encoder_qkv_multiscales": ((), (), ()),
        "decoder_qkv_multiscales": ((), (), ()),
        "scaling_factor": 0.41407,
    },
    "AutoencoderTiny": {
        "encoder_block_out_channels": WIDTHS,
        "decoder_block_out_channels": WIDTHS,
        "num_encoder_blocks": (1, 1, 1, 1),
        "num_decoder_blocks": (1, 1, 1, 1),
    },
    "AutoencoderKLQwenImage": {
        "base_dim": 8,
        "z_dim": 4,
        "num_res_blocks": 1,
        "latents_mean": [0.1, -0.2, 0.3, 0.0],
        "latents_std": [2.0, 1.0, 0.5, 4.0],
    },
    "AutoencoderKLWan": {
        "base_dim": 8,
        "z_dim": 4,
        "num_res_blocks": 1,
        "latents_mean": [0.1, -0.2, 0.3, 0.0],
        "latents_std": [2.0, 1.0, 0.5, 4.0],
    },
    "AutoencoderKLCogVideoX": {
        "block_out_channels": WIDTHS,
        "norm_num_groups": 4,
        "latent_channels": 4,
        "layers_per_block": 1,
        "scaling_factor": 0.7,
    },
    "AutoencoderKLHunyuanImage": {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 8,
        "block_out_channels": (32, 32, 64),
        "layers_per_block": 1,
        "spatial_compression_ratio": 4,
        "sample_size": 32,
        "scaling_factor": 0.75289,
    },
    "AutoencoderRAE": {
        "encoder_hidden_size": 64,
        "encoder_num_hidden_layers": 1,
        "decoder_hidden_size": 32,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32,
        "patch_size": 16,
        "encoder_input_size": 28,
        "latents_mean": [[[0.1]]] * 64,
        "latents_std": [[[0.5]]] * 64,
    },
}
"""Settings of a tiny one of every class that can be read."""


def save_tiny(kind: str, folder: Path) -> Any:
    """Save a seeded autoencoder of some class of diffusers in its layout; return it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(diffusers, kind)(**TINY[kind]).eval()
        if kind == "AutoencoderKLFlux2":
            model.bn.running_mean.normal_()
            model.bn.running_var.uniform_(0.5, 4)
    model.save_pretrained(folder)
    return model
