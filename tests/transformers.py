"""Tiny transformers of diffusers with random weights, and texts for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convflow.conditions.text import Text
from convflow.models.diffusers_layouts import create_transformer
from convflow.models.diffusers_network import DiffusersNetwork

FLUX = {
    "in_channels": 16, "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 16,
    "num_attention_heads": 2, "joint_attention_dim": 8, "pooled_projection_dim": 6,
    "axes_dims_rope": [4, 6, 6],
}  # fmt: skip
SD3 = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "num_layers": 2,
    "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 8,
    "caption_projection_dim": 32, "pooled_projection_dim": 6, "pos_embed_max_size": 12,
}  # fmt: skip
PRX = {
    "in_channels": 4, "context_in_dim": 8, "hidden_size": 32, "num_heads": 2, "depth": 2,
    "axes_dim": [8, 8],
}  # fmt: skip
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "flux": ("FluxTransformer2DModel", FLUX),
    "flux-distilled": ("FluxTransformer2DModel", FLUX | {"guidance_embeds": True}),
    "sd3": ("SD3Transformer2DModel", SD3),
    "sd3.5": (
        "SD3Transformer2DModel",
        SD3 | {"qk_norm": "rms_norm", "dual_attention_layers": [0]},
    ),
    "prx": ("PRXTransformer2DModel", PRX),
    "prx-bottleneck": ("PRXTransformer2DModel", PRX | {"bottleneck_size": 4}),
}
GUIDANCE = 2.5
EMPTY_SEED = 99


def create(case: str, seed: int = 0) -> Any:
    """Return a transformer of diffusers, none of whose weights is zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create_transformer(*TINY[case]).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def wrap(case: str, seed: int = 0, **settings: Any) -> DiffusersNetwork:
    """Return the network of the transformer of a case."""
    network = DiffusersNetwork.from_diffusers(create(case, seed), guidance=GUIDANCE, **settings)
    network.embed_text.know_empty(draw_text(1, seed=EMPTY_SEED))
    return network


def draw_text(batch: int, length: int = 5, seed: int = 1) -> Text:
    """Return random features of texts, one token of each but the first of which is padding."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(batch, length, dtype=torch.bool)
    mask[1:, -1] = False
    tokens = torch.randn(batch, length, 8, generator=generator)
    return Text(tokens, mask, torch.randn(batch, 6, generator=generator))


def pack(x: Tensor) -> Tensor:
    """Pack latents as the pipeline of FLUX does: 2x2 cells become one token of 4 C numbers."""
    batch, channels, height, width = x.shape
    cells = x.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(batch, height // 2 * (width // 2), 4 * channels)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Undo `pack`."""
    batch, _, numbers = tokens.shape
    cells = tokens.view(batch, height // 2, width // 2, numbers // 4, 2, 2)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(batch, numbers // 4, height, width)


def ids_of(height: int, width: int) -> Tensor:
    """Return row and column of each packed cell, as the pipeline of FLUX numbers them."""
    rows, columns = torch.meshgrid(
        torch.arange(height // 2), torch.arange(width // 2), indexing="ij"
    )
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1).float()


def call(case: str, model: Any, x: Tensor, sigma: Tensor, text: Text) -> Tensor:
    """Return noise minus data as a pipeline of diffusers asks a transformer for it."""
    height, width = x.shape[2:]
    if case.startswith("flux"):
        told = torch.full((len(x),), GUIDANCE) if model.config.guidance_embeds else None
        tokens = model(
            hidden_states=pack(x),
            timestep=sigma,
            guidance=told,
            pooled_projections=text.pooled,
            encoder_hidden_states=text.tokens,
            txt_ids=torch.zeros(text.tokens.shape[1], 3),
            img_ids=ids_of(height, width),
            return_dict=False,
        )[0]
        return unpack(tokens, height, width)
    if case.startswith("sd3"):
        return model(
            hidden_states=x,
            timestep=1000 * sigma,
            encoder_hidden_states=text.tokens,
            pooled_projections=text.pooled,
            return_dict=False,
        )[0]
    return model(
        hidden_states=x,
        timestep=sigma,
        encoder_hidden_states=text.tokens,
        attention_mask=text.mask,
        return_dict=False,
    )[0]


def save_pipeline(folder: Path, case: str, seed: int = 0, **options: Any) -> Any:
    """Write a transformer as that of a pipeline of diffusers; return it."""
    model = create(case, seed)
    model.save_pretrained(folder / "transformer", **options)
    return model
