"""The captions of a training by number: which of them an image has, and what each tells a network.

A batch says of each image its place among all; a caption of it is drawn by the seed and the images
seen. The features of a frozen encoder are made once for each distinct caption, and kept on disk.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils._pytree import tree_map

from convflow import distributed
from convflow.conditions.labels import Labels, cat, take
from convflow.conditions.text import Text, widened
from convflow.data.captions import captions_of
from convflow.data.check import Report
from convflow.data.latents import Latents
from convflow.data.loader import Images
from convflow.generate import Samples
from convflow.models.backbone import Backbone
from convflow.prompts import Prompts, describe_cut, read_prompts
from convflow.storage import write_text
from convflow.texts import PretrainedText, TextEncoder
from convflow.training.config import TrainConfig
from convflow.training.latents import stores_of
from convflow.training.text_table import (
    TextTable,
    check_alike,
    know_encoder,
    make_table,
    open_table,
)
from convflow.types import Cond, InputError

log = logging.getLogger("convflow")

TEXTS_FILE = "captions.jsonl"
"""In a run: its captions, a line of JSON each."""
SHOWN = 16
"""Captions that a model keeps as examples."""
MOST_COUNTED = 100_000
"""Of more captions nobody counts the tokens before a training."""
READ_OF_ENCODER = ("max_tokens", "sha256", "width", "pooled")
"""Settings of a frozen encoder that a run finds out of it, where they are not given."""


class CaptionSet:
    """The captions of the images of a training.

    The last number stands for the empty text.

    Args:
        encoder: makes conditions of them.
        said: for each image what is said of it, maybe several texts, or nothing.
        shown: texts of the previews; none for some of the captions.
        tables: features of all captions, of stores; none where they are to be made.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        said: Sequence[Sequence[str]],
        shown: Sequence[str] = (),
        tables: Sequence[TextTable] = (),
    ) -> None:
        distinct = dict.fromkeys(text for texts in said for text in texts if text)
        self.encoder, self.texts, self.shown = encoder, (*distinct, ""), tuple(shown)
        self.place = {text: number for number, text in enumerate(self.texts)}
        rows = [[self.place[text] for text in texts if text] or [self.empty] for texts in said]
        self._numbers = np.array([number for row in rows for number in row], np.int64)
        self._ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
        self.several = len(self._numbers) > len(rows)
        self.tables = list[TextTable]()
        self._rows = np.empty((0, 2), np.int64)
        self._known = None if encoder.frozen else encoder.encode(self.texts)
        self._of_shown: Cond | None = None
        if tables:
            self._look_in(tables)

    @property
    def empty(self) -> int:
        """The number of the empty text."""
        return len(self.texts) - 1

    @property
    def labels(self) -> Labels:
        """What can be done with numbers of captions: nothing is said where the text is empty."""
        return Labels(self.empty)

    @property
    def fingerprint(self) -> str:
        """Changes with the captions, and with which image has which."""
        whole = hashlib.sha256(json.dumps(self.texts).encode())
        whole.update(self._numbers.tobytes() + self._ends.tobytes())
        return whole.hexdigest()

    def draw(
        self, images: Int[Tensor, " B"], shares: Float[Tensor, " B"] | None
    ) -> Int[Tensor, " B"]:
        """Return the number of a caption of each image, one of several by a share in [0, 1)."""
        places = images.cpu().numpy()
        ends = self._ends[places]
        starts = np.where(places > 0, self._ends[places - 1], 0)
        if shares is not None:
            starts = starts + (shares.double().cpu().numpy() * (ends - starts)).astype(np.int64)
        return torch.from_numpy(self._numbers[starts]).to(images.device)

    def conditions(self, numbers: Int[Tensor, " B"]) -> Cond:
        """Return what the network is told of captions by number, on the device of the numbers."""
        if self._known is not None:
            known = numbers.cpu()
            return tree_map(lambda part: part[known].to(numbers.device), self._known)
        rows = self._rows[numbers.cpu().numpy()]
        order, parts = list[np.ndarray](), list[Text]()
        for number, table in enumerate(self.tables):
            order.append(np.flatnonzero(rows[:, 0] == number))
            parts.append(table.take(rows[order[-1], 1]))
        back = torch.from_numpy(np.argsort(np.concatenate(order)))
        found: Text = parts[0] if len(parts) == 1 else cat(list(map(widened, parts)))
        return widened(Text(*(part[back].to(numbers.device) for part in found)))

    def examples(self, num: int) -> tuple[str, ...]:
        """Return so many captions, evenly spaced."""
        places = np.linspace(0, self.empty - 1, min(num, self.empty)).round().astype(np.int64)
        return tuple(self.texts[place] for place in places)

    def prompts(self, num: int) -> Prompts:
        """Return the texts of the previews: those that were given, or so many captions."""
        return Prompts(self.shown or self.examples(num), self)

    def scored(self, samples: Samples) -> Samples:
        """Return samples of all captions, as `convflow evaluate` draws them."""
        texts = tuple(in_drawn_order(self.texts[:-1]))
        prompts, classes = Prompts(texts, self), tuple(range(len(texts)))
        return replace(samples, prompts=prompts, classes=classes)

    @property
    def told(self) -> dict[str, Any]:
        """What conditions depend on beside the texts."""
        return self.encoder.told

    @property
    def length(self) -> int:
        """Most tokens of a text."""
        return self.encoder.length

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text before it is cut."""
        return self.encoder.count_tokens(texts)

    def encode(self, texts: Sequence[str]) -> Cond:
        """Return the conditions of texts, those of captions and previews as they are kept."""
        ready = self._known is not None or self.tables
        if ready and all(text in self.place for text in texts):
            return self.conditions(torch.tensor([self.place[text] for text in texts]))
        if self._of_shown is not None and all(text in self.shown for text in texts):
            return take(self._of_shown, torch.tensor([self.shown.index(text) for text in texts]))
        return self.encoder.encode(texts)

    def prepare(self, run: Path, device: torch.device) -> None:
        """Make the features of all captions, or open those of an earlier start; all come here.

        A frozen encoder then leaves the memory.

        Args:
            run: its folder keeps them.
            device: of this process.
        """
        if self.encoder.frozen and not self.tables:
            distributed.from_first(lambda: make_table(run, self.texts, self.encoder), device)
            table = open_table(run)
            assert table is not None, "it was written just now"
            self._look_in([table])
        if self.shown:
            self._of_shown = distributed.from_first(self._encode_shown, device)
        self.encoder.release()

    def _encode_shown(self) -> Cond:
        if said := describe_cut(self.encoder, self.shown):
            log.info(f"{said} (--text.max-tokens)")
        return self.encode(self.shown)

    def _look_in(self, tables: Sequence[TextTable]) -> None:
        """Take features from tables, which have all texts."""
        places = {
            text: (number, row)
            for number, table in enumerate(tables)
            for row, text in enumerate(table.texts)
        }
        self.tables = list(tables)
        self._rows = np.array([places[text] for text in self.texts], np.int64)

    def tell_empty(self, networks: Sequence[Backbone], device: torch.device) -> None:
        """Give networks the features of the empty text, where they are not their own."""
        if not self.encoder.frozen:
            return
        found = distributed.from_first(lambda: self.encode([""]), device)
        for network in networks:
            network.inner.parts.label.know_empty(found)


def open_captions(
    config: TrainConfig,
    found: TrainConfig,
    images: Images | Latents,
    report: Report,
    device: torch.device,
) -> tuple[TrainConfig, CaptionSet | None]:
    """Return settings that know their text encoder, and the captions of the images if it is used.

    The batches of these images then say their places among all, and there are no classes.

    Args:
        config: the complete settings.
        found: the same, with paths where they are now.
        images: of the training.
        report: what a scan found; lines on the captions are added.
        device: of this process.

    Raises:
        InputError: images without captions, settings of labels, or another encoder than before.
    """
    if not config.text.used:
        if config.monitor.prompts:
            raise InputError("--monitor.prompts: expected --text with it, got none; leave it out")
        return config, None
    if config.label_noise:
        raise InputError(
            f"--label-noise: expected 0 with --text, got {config.label_noise:g}; leave it out"
        )
    say = captions_of(images.source)
    said = [] if say is None else [split_captions(say(int(i))) for i in images.indices]
    if not any(text for texts in said for text in texts):
        raise InputError(
            f"--text: expected captions with the images, got none in {config.data.path}; give a "
            "column caption or text, a .txt file beside each image, or a metadata.jsonl, or leave "
            "--text out"
        )
    file = found.monitor.prompts
    shown = read_prompts(Path(file), "--monitor.prompts") if file else []
    encoder, tables = found.text.prepare(device), tables_of(images)
    if isinstance(encoder, PretrainedText):
        known = {name: getattr(encoder, name) for name in READ_OF_ENCODER}
        config = replace(config, text=replace(config.text, **known))  # type: ignore[type-var]
    captions = CaptionSet(encoder, said, shown, tables)
    # First, for it tells the classes that there were.
    images.fingerprint = f"{images.fingerprint}-{captions.fingerprint}"
    images.labels, images.class_names = np.arange(len(images)), ()
    report.notes = [*report.notes, *describe(captions, len(images))]
    return config, captions


def check_frozen(encoder: TextEncoder) -> None:
    """Raise InputError where a store is to hold what a network reads itself."""
    if encoder.used and not encoder.frozen:
        raise InputError(
            f"--text: expected pretrained for a store, got {encoder.kind}, which a network reads "
            "itself; leave it out, for a store keeps captions in any case"
        )


def check_texts(encoder: TextEncoder, said: Sequence[str], where: str) -> None:
    """Raise InputError where a store is to hold features of captions, and cannot.

    Args:
        encoder: of them, if it is used.
        said: of each image, captions a line each.
        where: what the user calls the images, for messages.
    """
    if not encoder.used:
        return
    encoder.network_settings()
    if not any(map(split_captions, said)):
        raise InputError(
            f"--text: expected captions with the images, got none in {where}; leave it out, or "
            "name their column with --data.caption-column"
        )


def encode_texts(
    encoder: TextEncoder, said: Sequence[str], store: Path, device: torch.device
) -> None:
    """Write the features of captions beside the latents of a store.

    Args:
        encoder: a frozen one.
        said: of each image, captions a line each.
        store: its folder.
        device: of this process.

    Raises:
        InputError: no such encoder.
    """
    texts = dict.fromkeys(text for each in said for text in split_captions(each))
    encoder = encoder.prepare(device)
    make_table(store, [*texts, ""], encoder)
    encoder.release()


def tables_of(images: Images | Latents) -> list[TextTable]:
    """Return the features of captions that stores of latents hold, none where not all do.

    Raises:
        InputError: stores whose features are of different encoders.
    """
    folders = images.folders if isinstance(images, Latents) else []
    tables = [table for folder in folders if (table := open_table(folder)) is not None]
    if len(tables) < len(folders):
        return []
    check_alike(tables, folders)
    return tables


def with_text_of_store(config: TrainConfig, run: Path) -> TrainConfig:
    """Return settings with what a store of latents knows of its text encoder, if it is used."""
    if not isinstance(config.text, PretrainedText):
        return config
    stores = stores_of(config, run)
    if not stores or (table := open_table(stores[0])) is None:
        return config
    return replace(config, text=know_encoder(config.text, table, config.data.path))


def keep_encoder(config: TrainConfig, before: TrainConfig) -> TrainConfig:
    """Return settings with what a run has found out of its text encoder, where it is the same."""
    ours, theirs = config.text, before.text
    if not isinstance(ours, PretrainedText) or not isinstance(theirs, PretrainedText):
        return config
    known = {name: getattr(theirs, name) for name in READ_OF_ENCODER if not getattr(ours, name)}
    return replace(config, text=replace(ours, **known))


def write_texts(captions: CaptionSet, run: Path) -> None:
    """Write the captions of a training into its folder, a line of JSON each."""
    lines = [json.dumps(text) + "\n" for text in captions.texts[:-1]]
    write_text(run / TEXTS_FILE, "".join(lines))


def read_texts(run: Path) -> list[str]:
    """Return the captions of a training, or raise InputError where its folder has none."""
    try:
        lines = (run / TEXTS_FILE).read_text(encoding="utf-8").splitlines()
        return [str(json.loads(line)) for line in lines if line]
    except (OSError, ValueError) as error:
        raise InputError(
            f"{run / TEXTS_FILE} is missing or damaged; give --prompts FILE, or go on with the run "
            "for a step"
        ) from error


def in_drawn_order(texts: Sequence[str]) -> list[str]:
    """Return texts in an order of the seed 0, so that the first ones are like all of them."""
    return [texts[place] for place in np.argsort(np.random.PCG64(0).random_raw(len(texts)))]


def split_captions(said: str) -> list[str]:
    """Return the captions of an image: one, or one a line of several."""
    return [line.strip() for line in said.splitlines() if line.strip()]


def describe(captions: CaptionSet, num_images: int) -> list[str]:
    """Return lines about the captions of a training."""
    encoder, texts = captions.encoder, captions.texts[:-1]
    named = getattr(encoder, "encoder", "")
    by = f"{encoder.kind} {named}".strip()
    lines = [f"{len(texts):,} different captions of {num_images:,} images, told by {by}"]
    # Those of a frozen encoder are counted where features are made.
    counted = not encoder.frozen and len(texts) <= MOST_COUNTED
    cut = describe_cut(encoder, texts) if counted else ""
    return [*lines, *([f"{cut} (--text.max-tokens)"] if cut else [])]
