"""A tiny autoencoder with random weights, for all that works in its latents."""

from __future__ import annotations

from pathlib import Path

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
