"""Tiny pipelines of diffusers with random weights, in the layout in which they are published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.tiny_encoders import save_tokenizer
from tests.transformers import create

NUM_OF_CLIP, NUM_OF_PRX = 6, 9
"""Tokens that these tokenizers take."""


def create_clip(vocabulary: int, width: int, projection: int | None = None) -> Any:
    """Return CLIP's text model, with a projection where its width is given."""
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=8,
        num_hidden_layers=3,
        num_attention_heads=1,
        max_position_embeddings=NUM_OF_CLIP,
        projection_dim=projection or width,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return kind(config)


def create_t5(vocabulary: int, width: int) -> Any:
    """Return the encoder of T5."""
    import transformers

    config = transformers.T5Config(
        vocab_size=vocabulary, d_model=width, d_kv=4, d_ff=8, num_layers=2, num_heads=2
    )
    return transformers.T5EncoderModel(config)


def create_gemma(vocabulary: int, width: int) -> Any:
    """Return the encoder of T5Gemma, whose settings are published with those of its decoder."""
    from transformers.models.t5gemma import configuration_t5gemma, modeling_t5gemma

    config = configuration_t5gemma.T5GemmaModuleConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        dropout_rate=0.0,
    )
    return modeling_t5gemma.T5GemmaEncoder(config)


def save_published(folder: Path, case: str, seed: int = 0) -> Any:
    """Write a whole pipeline to a folder; return it.

    Args:
        folder: is made.
        case: "flux", "sd3" or "prx"; see `tests.transformers.TINY`, their latents have 4 channels.
        seed: of the transformer.
    """
    import diffusers
    import transformers

    place = folder.with_name(f"{folder.name}-tokenizers")
    lengths = {"clip": NUM_OF_CLIP, "t5": 512, "gemma": NUM_OF_PRX}
    vocabulary = max([save_tokenizer(place / n, count) for n, count in lengths.items()])
    clip, t5, gemma = (
        transformers.PreTrainedTokenizerFast.from_pretrained(place / name) for name in lengths
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        if case == "flux":
            kind: Any = diffusers.FluxPipeline
            encoders = [create_clip(vocabulary, 6), create_t5(vocabulary, 8)]
            tokenizers = [clip, t5]
        elif case == "sd3":
            kind = diffusers.StableDiffusion3Pipeline
            clips = [create_clip(vocabulary, 3, 2), create_clip(vocabulary, 4, 4)]
            encoders, tokenizers = [*clips, create_t5(vocabulary, 8)], [clip, clip, t5]
        else:
            kind = diffusers.PRXPipeline
            encoders, tokenizers = [create_gemma(vocabulary, 8)], [gemma]
        for parameter in (p for network in encoders for p in network.parameters()):
            torch.nn.init.normal_(parameter, std=0.3)
        vae = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(4, 4),
            norm_num_groups=2,
            layers_per_block=1,
            scaling_factor=0.5,
            shift_factor=0.1,
        )
    parts: dict[str, Any] = {}
    for number, (encoder, tokenizer) in enumerate(zip(encoders, tokenizers, strict=True), 1):
        end = "" if number == 1 else f"_{number}"
        parts |= {f"text_encoder{end}": encoder.eval(), f"tokenizer{end}": tokenizer}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = kind(transformer=create(case, seed), scheduler=scheduler, vae=vae, **parts)
    pipe.save_pretrained(folder)
    if case == "prx":
        both = dict.fromkeys(("encoder", "decoder"), encoders[0].config.to_dict())
        config = transformers.T5GemmaConfig(**both, vocab_size=vocabulary)
        config.save_pretrained(folder / "text_encoder")
    return pipe
