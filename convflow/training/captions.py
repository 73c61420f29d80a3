"""The captions of a training by number: which of them an image has, and what each tells a network.

A batch says of each image its place among all; a caption of it is drawn by the seed and the images
seen. The features of a frozen encoder are made once for each distinct caption, and kept on disk.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from convflow import distributed
from convflow.bar import Bar
from convflow.conditions.labels import Labels
from convflow.data.captions import captions_of
from convflow.data.check import Report
from convflow.data.latents import Latents
from convflow.data.loader import Images
from convflow.models.backbone import Backbone
from convflow.settings.read import to_dict
from convflow.storage import begin_folder, end_folder, read_json, write_text
from convflow.texts import PretrainedText, Prompts, TextEncoder, describe_cut, read_prompts
from convflow.training.config import TrainConfig
from convflow.types import Cond, InputError

log = logging.getLogger("convflow")

FOLDER, INDEX_FILE = "texts", "texts.json"
"""In a run: features of captions by their number, and what they are of."""
TEXTS_FILE = "captions.jsonl"
"""In a run: its captions, a line of JSON each."""
AT_ONCE = 512
"""Captions whose features are made before they are written."""
SHOWN = 16
"""Captions that a model keeps as examples."""
MOST_COUNTED = 100_000
"""Of more captions nobody counts the tokens before a training."""


class Captions:
    """The captions of the images of a training.

    The last number stands for the empty text.

    Args:
        encoder: makes conditions of them.
        said: for each image what is said of it, maybe several texts, or nothing.
        more: texts that no image has, such as those of previews.
    """

    def __init__(
        self, encoder: TextEncoder, said: Sequence[Sequence[str]], more: Sequence[str] = ()
    ) -> None:
        distinct = dict.fromkeys(text for texts in (*said, more) for text in texts if text)
        self.encoder, self.texts = encoder, (*distinct, "")
        self.place = {text: number for number, text in enumerate(self.texts)}
        rows = [[self.place[text] for text in texts if text] or [self.empty] for texts in said]
        self._numbers = np.array([number for row in rows for number in row], np.int64)
        self._ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
        self.several = len(self._numbers) > len(rows)
        self._parts, self._layout = list[np.ndarray](), None
        if not encoder.frozen:
            self._hold(encoder.encode(self.texts))

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
        rows = numbers.cpu().numpy()
        parts = [torch.from_numpy(np.array(part[rows])) for part in self._parts]
        assert self._layout is not None, "prepare() comes before the first step"
        return tree_unflatten([part.to(numbers.device) for part in parts], self._layout)

    def prompts(self, num: int, chosen: Sequence[str] = ()) -> Prompts:
        """Return texts to show: those that are chosen, or so many captions, evenly spaced."""
        if not chosen:
            count = min(num, self.empty)
            places = np.linspace(0, self.empty - 1, count).round().astype(np.int64)
            chosen = [self.texts[place] for place in places]
        return Prompts(tuple(chosen), self)

    @property
    def length(self) -> int:
        """Most tokens of a text."""
        return self.encoder.length

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text before it is cut."""
        return self.encoder.count_tokens(texts)

    def encode(self, texts: Sequence[str]) -> Cond:
        """Return the conditions of texts, those of captions as they are kept."""
        if self._layout is None or any(text not in self.place for text in texts):
            return self.encoder.encode(texts)
        return self.conditions(torch.tensor([self.place[text] for text in texts]))

    def prepare(self, run: Path, device: torch.device) -> None:
        """Make the features of all captions, or open those of an earlier start; all come here.

        Args:
            run: its folder keeps them.
            device: of this process.
        """
        if self._layout is not None:
            return
        folder = run / FOLDER
        distributed.from_first(partial(self._make, folder), device)
        layout = tree_flatten(self.encoder.encode([""]))[1] if distributed.rank() == 0 else None
        self._layout = distributed.from_first(lambda: layout, device)
        names = sorted(folder.glob("part*.npy"))
        self._parts = [np.load(name, mmap_mode="r", allow_pickle=False) for name in names]

    def tell_empty(self, network: Backbone, device: torch.device) -> None:
        """Give a network the features of the empty text, where they are not its own."""
        if self.encoder.frozen:
            found = distributed.from_first(lambda: self.encoder.encode([""]), device)
            network.inner.parts.label.know_empty(found)

    def _hold(self, conditions: Cond) -> None:
        parts, self._layout = tree_flatten(conditions)
        self._parts = [part.numpy() for part in parts]

    def _make(self, folder: Path) -> None:
        """Write the features of all captions, unless they are there."""
        known = {"texts": self.fingerprint, "encoder": self.encoder_text}
        if (folder / INDEX_FILE).is_file() and read_json(folder / INDEX_FILE) == known:
            return
        shutil.rmtree(folder, ignore_errors=True)
        draft, files = begin_folder(folder), list[np.ndarray]()
        shown = sys.stderr.isatty()
        with Bar(total=len(self.texts), desc="texts", unit="text", disable=not shown) as bar:
            for start in range(0, len(self.texts), AT_ONCE):
                some = self.texts[start : start + AT_ONCE]
                parts = [part.numpy() for part in tree_flatten(self.encoder.encode(some))[0]]
                if not files:
                    files = [
                        np.lib.format.open_memmap(
                            draft / f"part{number}.npy",
                            mode="w+",
                            dtype=part.dtype,
                            shape=(len(self.texts), *part.shape[1:]),
                        )
                        for number, part in enumerate(parts)
                    ]
                for file, part in zip(files, parts, strict=True):
                    file[start : start + len(some)] = part
                bar.update(len(some))
        for file in files:
            file.flush()
        write_text(draft / INDEX_FILE, json.dumps(known))
        end_folder(draft, folder)
        log.info(f"features of {len(self.texts):,} texts are kept in {folder}")

    @property
    def encoder_text(self) -> str:
        """What the features depend on beside the texts."""
        return json.dumps(to_dict(self.encoder) | {"encoder": ""}, sort_keys=True)


def open_captions(
    config: TrainConfig,
    found: TrainConfig,
    images: Images | Latents,
    report: Report,
    device: torch.device,
) -> tuple[TrainConfig, Captions | None]:
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
    encoder = found.text.prepare(device)
    if isinstance(encoder, PretrainedText):
        config = replace(config, text=replace(config.text, sha256=encoder.sha256))
    monitor = config.monitor
    more = read_prompts(Path(monitor.prompts), "--monitor.prompts") if monitor.prompts else []
    captions = Captions(encoder, said, more)
    # First, for it tells the classes that there were.
    images.fingerprint = f"{images.fingerprint}-{captions.fingerprint}"
    images.labels, images.class_names = np.arange(len(images)), ()
    report.notes = [*report.notes, *describe(captions, len(images))]
    return config, captions


def write_texts(captions: Captions, run: Path) -> None:
    """Write the captions of a training into its folder, a line of JSON each."""
    lines = [json.dumps(text, ensure_ascii=False) + "\n" for text in captions.texts[:-1]]
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


def split_captions(said: str) -> list[str]:
    """Return the captions of an image: one, or one a line of several."""
    return [line.strip() for line in said.splitlines() if line.strip()]


def describe(captions: Captions, num_images: int) -> list[str]:
    """Return lines about the captions of a training."""
    encoder, texts = captions.encoder, captions.texts[:-1]
    named = getattr(encoder, "encoder", "")
    by = f"{encoder.kind} {named}".strip()
    lines = [f"{len(texts):,} different captions of {num_images:,} images, told by {by}"]
    cut = describe_cut(encoder, texts) if len(texts) <= MOST_COUNTED else ""
    return [*lines, *([f"{cut} (--text.max-tokens)"] if cut else [])]
