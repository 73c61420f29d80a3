"""What makes conditions of texts: a spelling that the network reads, or a frozen text encoder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from convflow import text_encoders, text_pipelines
from convflow.conditions.spelling import FIRST_ROW, NUM_BYTES, Spelling, spell
from convflow.conditions.text import Text, widened
from convflow.settings.fields import Count, Depth, Natural, Width, doc
from convflow.settings.kinds import Part, Table
from convflow.text_encoders import EncoderShape, LoadedEncoder
from convflow.text_pipelines import FoundPipeline, PipelineEncoders
from convflow.types import Cond, InputError

log = logging.getLogger("convflow")

USUAL_TOKENS = {"words": 32, "bytes": 128}
"""Most tokens of a text in each spelling, where nothing else is said."""

ENCODED_AT_ONCE = 32
"""Texts that a frozen encoder is given together."""


class TextEncoder(Part):
    """From texts to what a network is told of them; a frozen dataclass of its settings."""

    used: ClassVar[bool] = True
    """Whether the network is told texts, in place of labels."""
    frozen: ClassVar[bool] = False
    """Whether the conditions are features, a `Text`, that cost work and are kept once made."""

    @property
    def length(self) -> int:
        """Most tokens of a text; of a longer one the rest is cut."""
        raise NotImplementedError

    @property
    def stored(self) -> torch.dtype:
        """In what features are stored."""
        return torch.float32

    @property
    def told(self) -> dict[str, Any]:
        """What conditions depend on beside the texts: of two that are alike they are the same."""
        return {"kind": self.kind}

    def network_settings(self) -> dict[str, Any]:
        """Return the settings of a network that is told these texts."""
        return {}

    def encode(self, texts: Sequence[str]) -> Cond:
        """Return the conditions of texts, on the CPU, a row each."""
        raise NotImplementedError

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text before it is cut."""
        raise NotImplementedError

    def on(self, device: torch.device) -> TextEncoder:
        """Return the encoder for a device; nothing is read yet."""
        return self

    def prepare(self, device: torch.device | None = None) -> TextEncoder:
        """Return the encoder ready for a device, its weights compared with those it is known by."""
        return self

    def release(self) -> None:
        """Let go of what is in memory; it is read again when it is needed again."""


@dataclass(frozen=True)
class NoText(TextEncoder):
    """Networks are told class labels, or nothing."""

    kind: ClassVar[str] = "none"
    used: ClassVar[bool] = False


@dataclass(frozen=True)
class TrainedText(TextEncoder):
    """Words or bytes as numbers, of which a reader in the network makes features.

    The reader is a table and a few blocks of attention. It is trained, averaged and stored with the
    network, and needs no download. Words are told apart by a hash, so that no vocabulary is kept.
    """

    kind: Spelling = "words"
    max_tokens: Annotated[
        Count | None, doc("most tokens of a text; none = 32 words, or 128 bytes")
    ] = None
    width: Annotated[Width, doc("channels of a token")] = 192
    depth: Annotated[Depth, doc("blocks of the reader")] = 2
    rows: Annotated[Width, doc("rows of the table of words; those of one row are one word")] = 4096

    def __post_init__(self) -> None:
        if self.rows <= FIRST_ROW:
            raise InputError(
                f"--text.rows: expected more than {FIRST_ROW}, got {self.rows}; try 4096"
            )

    @property
    def length(self) -> int:
        return self.max_tokens or USUAL_TOKENS[self.kind]

    @property
    def told(self) -> dict[str, Any]:
        return {"kind": self.kind, "max_tokens": self.length, "rows": self._rows}

    @property
    def _rows(self) -> int:
        return FIRST_ROW + NUM_BYTES if self.kind == "bytes" else self.rows

    def network_settings(self) -> dict[str, Any]:
        return {
            "num_classes": 0,
            "text_width": self.width,
            "pooled_width": self.width,
            "text_length": self.length,
            "text_rows": self._rows,
            "text_depth": self.depth,
        }

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return numbers of tokens (B, L) int64, 0 behind the last."""
        found = torch.zeros(len(texts), self.length, dtype=torch.int64)
        for row, text in zip(found, texts, strict=True):
            numbers = spell(text, self.kind, self._rows)[: self.length]
            row[: len(numbers)] = torch.tensor(numbers)
        return found

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(spell(text, self.kind, self._rows)) for text in texts]


@dataclass(frozen=True)
class PretrainedText(TextEncoder):
    """Features of a frozen text encoder of transformers: CLIP, T5, Gemma and others like them.

    Of a pipeline of diffusers all its encoders are read, and joined as it joins them. An encoder
    is in no checkpoint; its name and the SHA-256 of its weights are. Its weights are read when
    they are first needed.
    """

    kind: ClassVar[str] = "pretrained"
    frozen: ClassVar[bool] = True

    encoder: Annotated[
        str,
        doc(
            "folder or Hub id (owner/name@revision) of a text encoder with its tokenizer, or of a "
            "pipeline of diffusers"
        ),
    ] = ""
    max_tokens: Annotated[
        Count | None, doc("most tokens of a text; none = 77, or as many as its pipeline takes")
    ] = None
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        doc("arithmetic of the encoder; features are kept as float32, or as float16"),
    ] = "float32"
    sha256: Annotated[str, doc("of its weights; empty = written down when the run begins")] = ""
    width: Annotated[Natural, doc("channels of a token; 0 = read from the encoder")] = 0
    pooled: Annotated[Natural, doc("channels of a whole text; 0 = read from the encoder")] = 0

    @property
    def length(self) -> int:
        return self.max_tokens or self.shape.usual

    @cached_property
    def _pipeline(self) -> FoundPipeline | None:
        """The pipeline of diffusers that is named; None for one encoder."""
        return text_pipelines.find_pipeline(self.encoder)

    @property
    def told(self) -> dict[str, Any]:
        weights = {"sha256": self.sha256} if self.sha256 else {"encoder": self.encoder}
        return {"kind": self.kind, "max_tokens": self.length, **weights}

    @property
    def stored(self) -> torch.dtype:
        return torch.float32 if self.dtype == "float32" else torch.float16

    @cached_property
    def shape(self) -> EncoderShape:
        """Channels of its features; InputError where they cannot be read."""
        if self.width and self.pooled:
            return EncoderShape(self.width, self.pooled)
        if not self.encoder:
            raise InputError(
                "--text.encoder: expected a folder or a Hub id, got none; give one, or --text words"
            )
        if self._pipeline is not None:
            return text_pipelines.read_shape(self._pipeline)
        return text_encoders.read_shape(self.encoder)

    def network_settings(self) -> dict[str, Any]:
        """Return the widths of the features, and their number.

        Raises:
            InputError: no encoder there, or one of shorter or longer texts.
        """
        longest, fewest = self.shape.longest, self.shape.fewest
        if longest is not None and self.length > longest:
            raise InputError(
                f"--text.max-tokens: expected at most {longest}, which {self.encoder} takes, got "
                f"{self.length}; lower it"
            )
        if self.length < fewest:
            raise InputError(
                f"--text.max-tokens: expected at least {fewest}, for {self.encoder} puts "
                f"{fewest - 1} of another encoder in front, got {self.length}; raise it"
            )
        return {
            "num_classes": 0,
            "text_width": self.shape.tokens,
            "pooled_width": self.shape.pooled,
            "text_length": self.length,
        }

    @cached_property
    def network(self) -> LoadedEncoder | PipelineEncoders:
        """The encoder, read when it is first asked for; InputError where that fails."""
        dtype, found = getattr(torch, self.dtype), self._pipeline  # type: torch.dtype, Any
        if found is None:
            found = text_encoders.load(self.encoder, dtype)
        else:
            found = text_pipelines.load(found, dtype)
        if self.sha256 not in ("", found.sha256):
            raise InputError(
                f"expected the text encoder {self.encoder} with the SHA-256 {self.sha256[:16]}, "
                f"as in training, got {found.sha256[:16]}; give the folder of that one"
            )
        return found.to(vars(self).get("_device"))

    def on(self, device: torch.device) -> PretrainedText:
        return self._placed(replace(self), device)

    def _placed(self, known: PretrainedText, device: torch.device | None) -> PretrainedText:
        """Return another encoder of these weights, on a device."""
        vars(known)["_device"] = device
        if "network" in vars(self):
            vars(known)["network"] = self.network.to(device)
        return known

    def prepare(self, device: torch.device | None = None) -> PretrainedText:
        tokens, pooled = self.shape[:2]
        digest = self.sha256 or self.network.sha256
        known = replace(self, max_tokens=self.length, sha256=digest, width=tokens, pooled=pooled)
        placed = self._placed(known, device)
        vars(self).pop("network", None)  # one of them holds it
        return placed

    def release(self) -> None:
        vars(self).pop("network", None)

    def encode(self, texts: Sequence[str]) -> Text:
        """Return features of texts in float32, padded to L tokens, rounded as they are stored."""
        parts = [
            self.network.encode(texts[start : start + ENCODED_AT_ONCE], self.length)
            for start in range(0, len(texts), ENCODED_AT_ONCE)
        ]

        def join(*rows: Tensor) -> Tensor:
            whole = torch.cat(rows).cpu()
            return whole.to(self.stored) if whole.is_floating_point() else whole

        return widened(tree_map(join, *parts))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self.network.count_tokens(texts)


TEXT_ENCODERS: Table[type[TextEncoder]] = Table(
    "text encoder",
    TextEncoder,
    {"none": NoText, "words": TrainedText, "bytes": TrainedText, "pretrained": PretrainedText},
)
TextEncoder.kinds = TEXT_ENCODERS
