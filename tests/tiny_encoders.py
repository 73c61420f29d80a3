"""Tiny text encoders of transformers with random weights, and a tokenizer of a few words."""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = "a big small red blue green cat dog heart square circle and the on of".split()
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]


def save_tokenizer(folder: Path, longest: int = 16) -> int:
    """Write a tokenizer of words to a folder; return how many numbers it has."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    numbers = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    ends = [("<s>", 1), ("</s>", 2)]
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=longest,
    ).save_pretrained(folder)
    return len(numbers)


def save_encoder(kind: str, folder: Path, seed: int = 0) -> str:
    """Write an encoder with its tokenizer to a folder; return its name.

    Args:
        kind: "clip", "t5" or "gemma", the latter a decoder.
        folder: is made.
        seed: of the weights.
    """
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    count = save_tokenizer(folder)
    torch.manual_seed(seed)
    common = {"vocab_size": count, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if kind == "t5":
        config = transformers.T5Config(
            **common, d_model=24, d_kv=6, d_ff=32, num_layers=2, num_heads=4
        )
        network = transformers.T5EncoderModel(config)
    else:
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
        more = {"num_attention_heads": 2, "max_position_embeddings": 16}
        if kind == "clip":
            network = transformers.CLIPTextModel(
                transformers.CLIPTextConfig(**common, **sizes, **more)
            )
        else:
            config = transformers.GemmaConfig(
                **common, **sizes, **more, num_key_value_heads=1, head_dim=8
            )
            network = transformers.GemmaModel(config)
    with torch.no_grad():  # new encoders of some kinds answer nearly the same to all texts
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    return str(folder)
