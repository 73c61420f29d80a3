"""Texts that images are asked for: which are given, and whether they fit a model."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch.utils._pytree import tree_map

from convflow.texts import NoText, TextEncoder
from convflow.types import Cond, InputError

log = logging.getLogger("convflow")


@runtime_checkable  # for the shape checks in tests
class Encodes(Protocol):
    """What makes conditions of texts: a `TextEncoder`, or captions that are known already."""

    @property
    def told(self) -> dict[str, Any]:
        """What conditions depend on beside the texts."""

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
    wanted = {"text_rows": 0} | text.network_settings() if text.used else {}
    for name, value in wanted.items():
        known = getattr(network.inner.config, name, 0)
        # A width of 0 stands for another one, but no rows for the features of a frozen encoder.
        if known != value and (name == "text_rows" or (known and value)):
            raise InputError(
                f"expected a text encoder with the {name} {known} of the network, got {value}; "
                "give the text encoder it was trained with"
            )
    return text


def check_weaker(text: TextEncoder, weaker: TextEncoder) -> None:
    """Raise InputError unless a weaker model is told texts as the other is."""
    if text.used and weaker.used and weaker.told != text.told:
        raise InputError(
            f"expected a weaker model with the text encoder of the other, {text.kind}, got one "
            f"with another, {weaker.kind}; choose a model that was trained with the same"
        )


def tell_empty_later(network: Any, text: TextEncoder) -> None:
    """Let a network that stores no features of the empty text have them when guidance asks."""
    if text.frozen and not getattr(label := network.inner.parts.label, "knows_empty", True):
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
    given = examples if prompts is None else prompts
    single = isinstance(given, str) or not isinstance(given, Iterable)
    texts: tuple[Any, ...] = (given,) if single else tuple(given)
    if not texts or not all(isinstance(each, str) for each in texts):
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
