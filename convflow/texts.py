"""What makes conditions of texts: a spelling that the network reads, or a frozen text encoder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from convflow import text_encoders, text_pipelines
from convflow.conditions.spelling import FIRST_ROW, NUM_BYTES, Spelling, spell
from convflow.conditions.text import Text
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
        return self._placed(known, device)

    def encode(self, texts: Sequence[str]) -> Text:
        """Return features of texts, padded to L tokens."""
        parts = [
            self.network.encode(texts[start : start + ENCODED_AT_ONCE], self.length)
            for start in range(0, len(texts), ENCODED_AT_ONCE)
        ]
        kept = torch.float32 if self.dtype == "float32" else torch.float16

        def join(*rows: Tensor) -> Tensor:
            whole = torch.cat(rows).cpu()
            return whole.to(kept) if whole.is_floating_point() else whole

        return tree_map(join, *parts)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self.network.count_tokens(texts)


TEXT_ENCODERS: Table[type[TextEncoder]] = Table(
    "text encoder",
    TextEncoder,
    {"none": NoText, "words": TrainedText, "bytes": TrainedText, "pretrained": PretrainedText},
)
TextEncoder.kinds = TEXT_ENCODERS


@runtime_checkable  # for the shape checks in tests
class Encodes(Protocol):
    """What makes conditions of texts: a `TextEncoder`, or captions that are known already."""

    @property
    def length(self) -> int:
        """Most tokens of a text."""

    def encode(self, texts: Sequence[str]) -> Cond:
        """Return the conditions of texts, on the CPU, a row each."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text before it is cut."""


class Prompts(NamedTuple):
    """Texts that images are asked for, and what makes conditions of them."""

    texts: tuple[str, ...]
    encoder: Encodes

    def say_cut(self) -> None:
        """Say which texts are longer than is read."""
        if said := describe_cut(self.encoder, self.texts):
            log.info(said)

    def conditions(self, numbers: Sequence[int]) -> Cond:
        """Return the conditions of texts by number, each encoded once."""
        each = dict.fromkeys(self.texts[number] for number in numbers)
        known = {text: row for row, text in enumerate(each)}
        rows = torch.tensor([known[self.texts[number]] for number in numbers])
        return tree_map(lambda part: part[rows], self.encoder.encode([*each]))


def check_told(network: Any, text: TextEncoder | None) -> TextEncoder:
    """Return what makes conditions of prompts for a network.

    Args:
        network: a `Backbone`.
        text: None for a network that is told labels.

    Raises:
        InputError: a text encoder whose features are others than the network takes, or none for a
            network that is told texts.
    """
    text = text or NoText()
    if network.takes_text != text.used:
        ours, theirs = ("texts" if told else "labels" for told in (network.takes_text, text.used))
        raise InputError(
            f"expected a text encoder for texts alone, got a network that is told {ours} and "
            f"conditions that are {theirs}; give the text encoder it was trained with, or none"
        )
    return text


def tell_empty_later(network: Any, text: TextEncoder) -> None:
    """Let a network that stores no features of the empty text have them when guidance asks."""
    label = network.inner.parts.label
    if text.frozen and not getattr(label, "knows_empty", True):
        label.find_empty = lambda: text.encode([""])


def asked_prompts(
    text: TextEncoder, examples: Sequence[str], prompts: Any, labels: Any
) -> Prompts | None:
    """Return the texts that images are asked for; None for a model that is told labels.

    Args:
        text: of the model.
        examples: texts that the model keeps.
        prompts: that the user gives: a text or several; None for the examples.
        labels: that the user gives, or None.

    Raises:
        InputError: prompts for a model of labels, labels for one of texts, or no texts.
    """
    if not text.used:
        if prompts is not None:
            raise InputError(
                "expected labels for a model that is told class labels, got prompts; leave them out"
            )
        return None
    if labels is not None:
        raise InputError(
            "expected prompts for a model that is told texts, got labels; give prompts, on the "
            "command line --prompt TEXT"
        )
    given = examples if prompts is None else [prompts] if isinstance(prompts, str) else prompts
    if not (texts := tuple(given)) or not all(isinstance(each, str) for each in texts):
        raise InputError(
            f"expected at least one text as prompts, got {prompts!r}; give a text or several"
        )
    return Prompts(texts, text)


def read_prompts(path: Path, option: str) -> list[str]:
    """Return the texts of a file, one a line; empty lines are left out.

    Raises:
        InputError: no such file, one that is no text, or one without texts.
    """
    try:
        lines = path.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise InputError(
            f"{option}: expected a file of texts, one a line, got {path} ({reason}); give another"
        ) from error
    if not (found := [line.strip() for line in lines if line.strip()]):
        raise InputError(f"{option}: expected texts in {path}, got none; write one a line")
    return found


def describe_cut(encoder: Encodes, texts: Sequence[str]) -> str:
    """Return a line on texts that are longer than the encoder takes, empty where none is."""
    counts = encoder.count_tokens(texts)
    cut = [place for place, count in enumerate(counts) if count > encoder.length]
    if not cut:
        return ""
    first = " ".join(texts[cut[0]].split())
    shown = f"{first[:40]}..." if len(first) > 40 else first
    more = f", and {len(cut) - 1:,} more texts are cut" if len(cut) > 1 else ""
    return (
        f"{shown!r} has {counts[cut[0]]:,} tokens, of which the first {encoder.length:,} are read"
        f"{more}"
    )
