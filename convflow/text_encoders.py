"""Text encoders of transformers, frozen: what they are like, and the features of texts.

CLIP: Radford et al. 2021; T5: Raffel et al. 2020. Of a decoder such as Gemma the last hidden states
are the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convflow import hub
from convflow.conditions.text import Text
from convflow.storage import hash_tensors
from convflow.types import InputError

CLIP_KINDS = ("clip", "clip_text_model")
TOKENS_OF_CLIP = 77
"""Most tokens of a text, where nothing else is said and the encoder takes as many."""
ENCODER_FILES = ("*.json", "*.safetensors", "*.model", "merges.txt", "vocab.txt")


class EncoderShape(NamedTuple):
    """What the features of a text encoder are like.

    Attributes:
        tokens: channels of a token.
        pooled: channels of a text as a whole.
        longest: most tokens that it takes; None where nothing tells.
        usual: most tokens of a text, where nothing else is said.
        fewest: tokens below which a text has none.
    """

    tokens: int
    pooled: int
    longest: int | None = None
    usual: int = TOKENS_OF_CLIP
    fewest: int = 1


class LoadedEncoder(NamedTuple):
    """A text encoder with its tokenizer.

    Attributes:
        network: of transformers, frozen.
        tokenizer: of transformers.
        sha256: of the weights.
    """

    network: Any
    tokenizer: Any
    sha256: str

    def to(self, device: torch.device | None) -> LoadedEncoder:
        """Move the network to a device; None leaves it where it is."""
        if device is not None:
            self.network.to(device)
        return self

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, its ends included."""
        return [len(ids) for ids in self.tokenizer(list(texts), truncation=False)["input_ids"]]

    @torch.no_grad()
    def encode(self, texts: Sequence[str], length: int) -> Text:
        """Return features in float32, padded or cut to `length` tokens.

        A text of no token at all keeps the first place of its padding, so that there is something
        to attend to.
        """
        found = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=length,
            padding_side="right",
            return_tensors="pt",
            return_attention_mask=True,
        ).to(self.network.device)
        mask = found["attention_mask"].bool()
        mask[:, 0] = True
        out = self.network(input_ids=found["input_ids"], attention_mask=mask.to(torch.int64))
        tokens = out.last_hidden_state.float() * mask[..., None]
        pooled = getattr(out, "pooler_output", None)
        if pooled is None:
            pooled = tokens.sum(1) / mask.sum(1, keepdim=True)
        return Text(tokens, mask, pooled.float())


def read_shape(name: str) -> EncoderShape:
    """Return what a text encoder is like, without its weights.

    Raises:
        InputError: transformers is missing, or no text encoder is there.
    """
    try:
        kind = _config(name).get_text_config(encoder=True)
        width, longest = int(kind.hidden_size), getattr(kind, "max_position_embeddings", None)
        return EncoderShape(width, width, longest, min(TOKENS_OF_CLIP, longest or TOKENS_OF_CLIP))
    except InputError:
        raise
    except Exception as error:  # of transformers or of the file
        raise refused(name, error) from error


def load(name: str, dtype: torch.dtype = torch.float32) -> LoadedEncoder:
    """Return a text encoder with its tokenizer, its weights and arithmetic in `dtype`.

    Args:
        name: a folder as transformers saves it, that of an encoder within a pipeline of diffusers
            (its tokenizer lies beside it), or a repository of the Hub, `owner/name@revision`.
        dtype: of the weights.

    Raises:
        InputError: transformers is missing; no such encoder, or one without all its weights.
    """
    transformers, folder = _transformers(), _find(name)
    try:
        config = _config(name)
        if config.model_type in CLIP_KINDS:
            kind = transformers.CLIPTextModel
        elif type(config) in transformers.MODEL_FOR_TEXT_ENCODING_MAPPING:
            kind = transformers.AutoModelForTextEncoding
        else:
            kind = transformers.AutoModel
        network, report = kind.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, dtype=dtype
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(_tokenizer_folder(folder))
    except Exception as error:  # of transformers or of the file
        raise refused(name, error) from error
    if missing := sorted(report["missing_keys"]):  # transformers would go on with random numbers
        raise InputError(
            f"expected all weights of a text encoder, got {name!r} without {missing[0]}; give "
            "another with --text.encoder"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    network = network.eval().requires_grad_(False)
    weights: dict[str, Tensor] = network.state_dict()
    return LoadedEncoder(network, tokenizer, hash_tensors(weights))


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            "a pretrained text encoder needs the package transformers, which is missing; "
            "pip install 'convflow[text]'"
        ) from error
    return transformers


def _config(name: str) -> Any:
    transformers, folder = _transformers(), _find(name)
    try:
        return transformers.AutoConfig.from_pretrained(folder)
    except Exception as error:  # of transformers or of the file
        raise refused(name, error) from error


def _find(name: str) -> Path:
    """Return the folder of an encoder, fetched from the Hub where it is an id."""
    place = Path(name).expanduser()
    if place.is_dir():
        return place
    return hub.download(name, ENCODER_FILES, "a text encoder of transformers (--text.encoder)")


def _tokenizer_folder(folder: Path) -> Path:
    """Return where the tokenizer of an encoder lies: with it, or beside it in a pipeline."""
    beside = folder.with_name(folder.name.replace("text_encoder", "tokenizer"))
    inside = any(folder.glob("tokenizer*")) or any(folder.glob("*.model"))
    return folder if inside or not beside.is_dir() else beside


def refused(name: str, error: Exception) -> InputError:
    """Return the error that says why something is no text encoder."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return InputError(
        f"expected a text encoder of transformers, got {name!r} ({reason}); give another with "
        "--text.encoder"
    )
