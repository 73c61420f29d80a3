"""How transformers of diffusers are made of stem, time embedding, text embedding, blocks and head.

A row of `ARCHITECTURES` for each class: where its parts are, what its blocks are called with, and
which names its weights have there. FLUX.1: Black Forest Labs 2024; Stable Diffusion 3: Esser et
al. 2024 (arXiv 2403.03206), figure 2; PRX: Photoroom 2025.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from convflow.models.diffusers_parts import (
    ConvolvedStem,
    NoiseEmbedding,
    NormedProjection,
    PackedStem,
    PositionTable,
    PromptEmbedding,
    VelocityHead,
    Waves,
)
from convflow.nn.norm import WithText
from convflow.types import InputError, unknown_name


class TakenParts(NamedTuple):
    """The parts of a transformer of diffusers, which are used up.

    Attributes:
        embed_patches: the stem.
        embed_time: of a flow's time.
        embed_text: of texts.
        blocks: in the order in which they run.
        positions: what the layout's `run` asks for positions.
        project: the head.
    """

    embed_patches: PackedStem
    embed_time: NoiseEmbedding
    embed_text: PromptEmbedding
    blocks: list[nn.Module]
    positions: nn.Module
    project: VelocityHead


RunBlocks = Callable[[nn.Module, Any, Tensor, WithText], Iterator[Tensor]]
"""From positions, blocks, features (B, h, w, D) and a condition to tokens (B, N, D) after each
block."""


class TransformerLayout(NamedTuple):
    """A class of diffusers as a network here.

    Attributes:
        take: from a transformer and a scale of guidance to its parts.
        run: the blocks.
        names: what begins the names of weights here, and there.
        blocks: names of the lists of blocks there, in the order in which they run.
        block_classes: what the blocks are called.
        num_tokens: of the texts that it was trained with.
    """

    take: Callable[[Any, float], TakenParts]
    run: RunBlocks
    names: Mapping[str, str]
    blocks: tuple[str, ...]
    block_classes: tuple[str, ...]
    num_tokens: int


def create_waves(period: int = 10_000) -> Waves:
    """Return diffusers' own cosines and sines, so that no number differs by a rounding."""
    from diffusers.models.embeddings import get_timestep_embedding

    return partial(
        get_timestep_embedding,
        embedding_dim=256,
        flip_sin_to_cos=True,
        downscale_freq_shift=0,
        max_period=period,
    )


def grid_of(features: Float[Tensor, "B h w D"], axes: int) -> Float[Tensor, "N axes"]:
    """Return row and column of each cell in the last two of so many numbers; the others are 0."""
    _, rows, columns, _ = features.shape
    grid = torch.zeros(rows, columns, axes, device=features.device)
    grid[..., -2] = torch.arange(rows, device=features.device)[:, None]
    grid[..., -1] = torch.arange(columns, device=features.device)
    return grid.flatten(0, 1)


def take_flux(model: Any, guidance: float) -> TakenParts:
    """Return the parts of a FluxTransformer2DModel, whose pipeline packs 2x2 cells to a patch."""
    c, embed, waves, width = model.config, model.time_text_embed, create_waves(), model.inner_dim
    if c.patch_size != 1 or c.out_channels not in (None, c.in_channels) or c.in_channels % 4:
        raise InputError(
            "expected a FluxTransformer2DModel of packed latents with as many channels out as in, "
            f"got in_channels {c.in_channels}, out_channels {c.out_channels} and patch_size "
            f"{c.patch_size}; give a model from text to image"
        )
    channels = c.in_channels // 4
    guide = getattr(embed, "guidance_embedder", None)
    head = NormedProjection(model.norm_out, model.proj_out)
    return TakenParts(
        PackedStem(model.x_embedder, channels, width, 2),
        NoiseEmbedding(waves, embed.timestep_embedder, "linear_2"),
        PromptEmbedding(
            model.context_embedder,
            width,
            (c.joint_attention_dim, c.pooled_projection_dim),
            embed.text_embedder,
            guide,
            waves,
            guidance,
        ),
        [*model.transformer_blocks, *model.single_transformer_blocks],
        model.pos_embed,
        VelocityHead(head, channels, width, 2, packed=True),
    )


def run_flux(positions: nn.Module, blocks: Any, x: Tensor, c: WithText) -> Iterator[Tensor]:
    """Yield the tokens after each block; texts have position 0, and their padding is read too."""
    ids = grid_of(x, 3)
    rotation = positions(torch.cat([ids.new_zeros(c.tokens.shape[1], 3), ids]))
    tokens, text = x.flatten(1, 2), c.tokens
    for block in blocks:
        text, tokens = block(
            hidden_states=tokens,
            encoder_hidden_states=text,
            temb=c.vector,
            image_rotary_emb=rotation,
        )
        yield tokens


def take_sd3(model: Any, guidance: float) -> TakenParts:
    """Return the parts of an SD3Transformer2DModel, which is told no scale of guidance."""
    c, embed, width = model.config, model.time_text_embed, model.inner_dim
    if model.out_channels != c.in_channels or not c.pos_embed_max_size:
        raise InputError(
            "expected an SD3Transformer2DModel with as many channels out as in and stored "
            f"positions, got in_channels {c.in_channels}, out_channels {model.out_channels} and "
            f"pos_embed_max_size {c.pos_embed_max_size}; give a model from text to image"
        )
    head = NormedProjection(model.norm_out, model.proj_out)
    return TakenParts(
        ConvolvedStem(model.pos_embed.proj, c.in_channels, width, c.patch_size),
        NoiseEmbedding(create_waves(), embed.timestep_embedder, "linear_2"),
        PromptEmbedding(
            model.context_embedder,
            width,
            (c.joint_attention_dim, c.pooled_projection_dim),
            embed.text_embedder,
        ),
        [*model.transformer_blocks],
        PositionTable(model.pos_embed.pos_embed),
        VelocityHead(head, c.in_channels, width, c.patch_size, packed=False),
    )


def run_sd3(positions: nn.Module, blocks: Any, x: Tensor, c: WithText) -> Iterator[Tensor]:
    """Yield the tokens after each block; positions are added once, texts have none."""
    tokens, text = (x + positions(*x.shape[1:3])).to(x.dtype).flatten(1, 2), c.tokens
    for block in blocks:
        text, tokens = block(hidden_states=tokens, encoder_hidden_states=text, temb=c.vector)
        yield tokens


def take_prx(model: Any, guidance: float) -> TakenParts:
    """Return the parts of a PRXTransformer2DModel, which reads no pooled features."""
    c, width = model.config, model.hidden_size
    if c.resolution_embeds or c.time_factor != 1000:
        raise InputError(
            "expected a PRXTransformer2DModel that is told no resolution, with time_factor 1000, "
            f"got resolution_embeds {c.resolution_embeds} and time_factor {c.time_factor}; give "
            "another"
        )
    return TakenParts(
        PackedStem(model.img_in, c.in_channels, width, c.patch_size),
        NoiseEmbedding(create_waves(c.time_max_period), model.time_in, "out_layer"),
        PromptEmbedding(model.txt_in, width, (c.context_in_dim, 0)),
        [*model.blocks],
        model.pe_embedder,
        VelocityHead(model.final_layer, c.in_channels, width, c.patch_size, packed=True),
    )


def run_prx(positions: nn.Module, blocks: Any, x: Tensor, c: WithText) -> Iterator[Tensor]:
    """Yield the tokens after each block; padding of texts is not read."""
    rotation, tokens = positions(grid_of(x, 2)[None]), x.flatten(1, 2)
    for block in blocks:
        tokens = block(
            hidden_states=tokens,
            encoder_hidden_states=c.tokens,
            temb=c.vector,
            image_rotary_emb=rotation,
            attention_mask=c.mask,
        )
        yield tokens


_OF_MMDIT = {
    "embed_time.layers": "time_text_embed.timestep_embedder",
    "embed_text.pooled": "time_text_embed.text_embedder",
    "embed_text.tokens": "context_embedder",
    "project.layers.norm": "norm_out",
    "project.layers.out": "proj_out",
}

ARCHITECTURES: dict[str, TransformerLayout] = {
    "FluxTransformer2DModel": TransformerLayout(
        take_flux,
        run_flux,
        _OF_MMDIT
        | {
            "embed_patches.layer": "x_embedder",
            "embed_text.guidance": "time_text_embed.guidance_embedder",
        },
        ("transformer_blocks", "single_transformer_blocks"),
        ("FluxTransformerBlock", "FluxSingleTransformerBlock"),
        512,
    ),
    "SD3Transformer2DModel": TransformerLayout(
        take_sd3,
        run_sd3,
        _OF_MMDIT
        | {"embed_patches.layer": "pos_embed.proj", "positions.table": "pos_embed.pos_embed"},
        ("transformer_blocks",),
        ("JointTransformerBlock",),
        333,
    ),
    "PRXTransformer2DModel": TransformerLayout(
        take_prx,
        run_prx,
        {
            "embed_patches.layer": "img_in",
            "embed_time.layers": "time_in",
            "embed_text.tokens": "txt_in",
            "project.layers": "final_layer",
        },
        ("blocks",),
        ("PRXBlock",),
        256,
    ),
}
"""By the name of the class in diffusers."""

BLOCK_CLASSES = frozenset(
    name for layout in ARCHITECTURES.values() for name in layout.block_classes
)


def is_diffusers_block(module: nn.Module) -> bool:
    """Return whether a module is a block of one of `ARCHITECTURES`, or is derived from one."""
    mine = [cls for cls in type(module).__mro__ if cls.__module__.startswith("diffusers.")]
    return any(cls.__name__ in BLOCK_CLASSES for cls in mine)


def create_transformer(architecture: str, options: Mapping[str, Any]) -> Any:
    """Return a new transformer of diffusers.

    Args:
        architecture: a name in `ARCHITECTURES`.
        options: arguments of the class.

    Raises:
        InputError: an unknown class, or diffusers is missing.
    """
    if architecture not in ARCHITECTURES:
        raise InputError(unknown_name("class of diffusers", architecture, ARCHITECTURES))
    return getattr(import_diffusers(), architecture)(**options)


def import_diffusers() -> Any:
    """Return the package diffusers, or raise InputError where it is not installed."""
    try:
        import diffusers
    except ImportError as error:
        raise InputError(
            "expected the package diffusers for its transformers, found none; "
            "pip install 'convflow[diffusers]'"
        ) from error
    return diffusers
