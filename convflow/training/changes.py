"""What a resumed run may change of its settings, and the record of what it has changed."""

from __future__ import annotations

import itertools
import json
import shlex
from pathlib import Path
from typing import Any, Literal, NamedTuple

from convflow.settings.fields import Pixels
from convflow.settings.read import differences, show, to_dict
from convflow.storage import write_text
from convflow.training.config import TrainConfig
from convflow.training.loggers import lines_up_to
from convflow.types import InputError

Rule = Literal["free", "recorded", "init", "new"]
"""May change; may change and leaves a line in `changes.jsonl`; belongs to another run that begins
from the weights (`--init`); belongs to another run that begins from nothing."""

ON_RESUME: dict[str, Rule] = {
    "model": "new",
    "data": "init",
    "data.path": "recorded",  # that the images are the same is known from themselves
    "data.channels": "new",
    "data.split": "recorded",
    "data.labels": "recorded",
    "data.label_column": "recorded",
    "data.caption_column": "recorded",
    "data.check": "free",
    "data.workers": "free",
    "data.draft": "recorded",
    "data.on_bad": "recorded",
    "data.on_change": "free",
    "data.max_pixels": "recorded",
    "resolution": "init",
    "codec": "new",
    "codec.tiling": "recorded",
    "codec.precision": "recorded",
    "text": "new",
    "text.encoder": "recorded",  # that it is the same is known from its weights
    "text.sha256": "free",  # compared when the encoder is read
    "text.width": "free",
    "text.pooled": "free",
    "process": "init",
    "process.kind": "new",
    "process.schedule": "new",
    "process.prediction": "new",
    "process.variance": "new",
    "process.factors": "new",
    "process.decomposition": "new",
    "objectives": "init",
    "optim": "recorded",
    "optim.kind": "init",
    "ema": "recorded",
    "ema.half_lives": "init",
    "ema.sigma_rel": "init",
    "monitor": "free",
    "monitor.validation.num": "init",
    "checkpoint": "free",
    "memory": "free",
    "sampling": "free",
    "init": "new",
    "init_partial": "new",
    "freeze": "init",
    "lora": "new",
    "images": "recorded",
    "batch_size": "init",
    "micro_batch": "free",
    "label_dropout": "recorded",
    "label_noise": "recorded",
    "dropout": "recorded",
    "seed": "init",
    "device": "free",
    "compile": "recorded",
    "parallel": "free",
    "precision": "recorded",
}
"""The rule of every key, or of its group where the key is not named."""

RECORD = "changes.jsonl"

OF_KINDS = ("model.", "codec.", "text.", "process.", "parallel.", "sampling.solver.")
"""Groups whose settings are those of a kind."""


class Change(NamedTuple):
    """A key whose value is another than before, and both as JSON has them."""

    key: str
    before: Any
    now: Any

    @property
    def rule(self) -> Rule:
        """What becomes of it on resume."""
        return ON_RESUME.get(self.key) or ON_RESUME[self.key.split(".")[0]]

    def __str__(self) -> str:
        """Return `key (before, now after)`."""
        return f"{self.key} ({self.before}, now {self.now})"

    @property
    def words(self) -> str:
        """The words of the command line that give its new value; empty where there is none."""
        if self.now is None and self.key.startswith(OF_KINDS):  # a setting of what was there before
            return ""
        if self.now is None and self.key.startswith("objectives."):
            objective, _, setting = self.key.rpartition(".")
            return f"--{objective.replace('_', '-')}.weight 0" if setting == "kind" else ""
        value = show(self.now, Pixels if self.key == "data.size" else None)
        if value is None or value == []:
            value = "none"
        text = str(value).lower() if isinstance(value, bool) else str(value)
        return f"--{self.key.replace('_', '-')} {shlex.quote(text)}"


def find_changes(before: TrainConfig, now: TrainConfig) -> list[Change]:
    """Return every key whose value has changed, in the order of their names.

    The settings of a kind that another has replaced are left out.
    """
    found = differences(to_dict(before), to_dict(now))
    found.pop("objectives", None)  # none at all, which says less than the keys of those there are
    changes = [Change(key, old, new) for key, (old, new) in sorted(found.items())]
    kinds = tuple(
        key.removesuffix("kind")
        for key in found
        if key.endswith(".kind") and not key.startswith("objectives.")
    )
    return [
        change for change in changes if change.now is not None or not change.key.startswith(kinds)
    ]


def check_changes(changes: list[Change], run: Path) -> None:
    """Raise InputError when a resumed run may not change so; the message names the way."""
    fixed = [change for change in changes if change.rule in ("init", "new")]
    if not fixed:
        return
    named = ", ".join(map(str, fixed))
    if any(change.rule == "new" for change in fixed):
        way = f"repeat the command that began it, with {_words(changes, run)}"
    else:
        way = begin_from_its_weights(run, changes)
    raise InputError(
        f"{run} was started with other settings: {named}; give the same settings, or {way}"
    )


def begin_from_its_weights(run: Path, changes: list[Change]) -> str:
    """Return the advice to begin another run from the weights of one, and the command."""
    begun = f"--init {shlex.quote(str(run))}"
    command = f"convflow train {begun} {_words(changes, run)}"
    return f"begin another run from its weights: {command}"


def _words(changes: list[Change], run: Path) -> str:
    words = filter(None, [change.words for change in changes])
    return " ".join([*words, "--run", shlex.quote(str(free_name(run)))])


def record_changes(changes: list[Change], run: Path, step: int, images_seen: int) -> list[Change]:
    """Write down, and return, what a run changes that goes on from `step`.

    Each is a line of `changes.jsonl`: step, images, key, from, to. Lines from an attempt that went
    on from here, or from later, and saved nothing are dropped.
    """
    recorded = [change for change in changes if change.rule == "recorded"]
    path = run / RECORD
    before = lines_up_to(path, step - 1)
    lines = [
        json.dumps({"step": step, "images": images_seen, "key": key, "from": old, "to": new}) + "\n"
        for key, old, new in recorded
    ]
    if path.exists() or lines:
        write_text(path, "".join(before + lines))
    return recorded


def free_name(run: Path) -> Path:
    """Return a folder beside `run` that is not there yet: `run-2`, or the next number."""
    names = (run.with_name(f"{run.name}-{number}") for number in itertools.count(2))
    return next(name for name in names if not name.exists())
