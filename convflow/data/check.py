"""A look at every picture before a training: which can be used, and how large they are.

What was seen is remembered, so that the next training on the same files begins at once.
"""

from __future__ import annotations

import hashlib
import json
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from convflow.data.images import num_cores, to_uint8
from convflow.data.pictures import Drawn, Source
from convflow.storage import writing_file
from convflow.types import InputError, Size

_BLOCK = 64  # pictures per task: small pictures decode faster than a task is handed over
_FORMAT = 1


@dataclass
class Report:
    """What a look at every picture found.

    Args:
        count: Usable pictures.
        per_class: Usable pictures by class name; empty for unconditional data.
        sides: (count, 2) height and width of the usable pictures.
        modes: Pictures by Pillow mode or array type.
        num_smaller: Usable pictures that must be enlarged to a size to train at.
        unreadable: (item name, reason) of every picture that cannot be used.
        understood: Sentences about split, labels and files that are not read, shown first.
        notes: More lines to show, about what becomes of the pictures.
    """

    count: int
    per_class: dict[str, int] = field(default_factory=dict)
    sides: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    modes: dict[str, int] = field(default_factory=dict)
    num_smaller: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    understood: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Smallest, median and largest (height, width), each side for itself."""
        extremes = [f(self.sides, axis=0).astype(int) for f in (np.min, np.median, np.max)]
        return tuple((int(height), int(width)) for height, width in extremes)

    def __str__(self) -> str:
        least, median, most = (f"{height}x{width}" for height, width in self.sizes)
        size = least if least == most else f"{least} to {most}, median {median}"
        modes = ", ".join(f"{count:,} {mode}" for mode, count in self.modes.items())
        lines = [f"{self.count:,} pictures, {size} (height x width); {modes}", *self.understood]
        if self.per_class:
            fewest, largest = (
                f(self.per_class, key=self.per_class.__getitem__) for f in (min, max)
            )
            low, high = self.per_class[fewest], self.per_class[largest]
            span = f"{low:,} ({fewest}) to {high:,} ({largest}) pictures"
            each = f"{low:,} pictures each" if low == high else span
            lines.append(f"{len(self.per_class)} classes: {each}")
        if self.num_smaller:
            lines.append(f"{self.num_smaller:,} are smaller than wanted and will be enlarged")
        if self.unreadable:
            names = ", ".join(name for name, _ in self.unreadable[:5])
            more = ", ..." if len(self.unreadable) > 5 else ""
            lines.append(f"{len(self.unreadable):,} cannot be used: {names}{more}")
        return "\n".join([*lines, *self.notes])


def check(
    source: Source,
    *,
    channels: int,
    size: Size,
    on_bad: Literal["stop", "skip"] = "stop",
    memory: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Report, np.ndarray]:
    """Decode every picture once, on all cores, and say what is there.

    Drawn pictures cannot be bad: only the first of them is drawn.

    Args:
        source: The pictures.
        channels: Wanted channels.
        size: Height and width in pixels at which drawn pictures are looked at.
        on_bad: `stop` raises if any picture is bad; `skip` leaves bad ones out.
        memory: Folder where a look is kept for the next time, if the source can tell its content
            apart by a stamp; pictures that were bad are looked at again.
        progress: Called with (pictures looked at, pictures in all) now and then.

    Returns:
        The report, and the sorted indices (int64) of the usable pictures.

    Raises:
        InputError: A picture is bad and `on_bad` is `stop`, all are, or there are none.
    """
    if on_bad not in ("stop", "skip"):
        raise InputError(f"expected on-bad 'stop' or 'skip', got {on_bad!r}")
    total = len(source)
    if total == 0:
        raise InputError(f"expected pictures in {source.name}, got none")
    if isinstance(source, Drawn):
        to_uint8(source.draw(0, size), channels)
        names = source.class_names
        named = Counter(names[source.label(i)] for i in range(total)) if names else {}
        sides = np.tile(np.array(size), (total, 1))
        return Report(total, dict(named), sides, {"drawn": total}), np.arange(total)
    stamp = getattr(source, "stamp", None)
    path = None
    if memory is not None and stamp is not None:
        known = repr((_FORMAT, stamp(), total, channels))
        path = memory / f"{hashlib.sha256(known.encode()).hexdigest()[:32]}.npz"
    look = _Look.read(path, total) if path is not None else _Look(total)
    missing = np.flatnonzero(look.modes < 0)
    if missing.size:
        _look_at(source, channels, look, missing, progress)
        if path is not None:
            look.write(path)

    bad = dict(look.problems)
    labels = np.array([source.label(index) for index in range(total)], np.int64)
    num_labels = max(len(source.class_names), 1)
    for index in np.flatnonzero((labels < 0) | (labels >= num_labels)):
        reason = f"expected a label in 0..{num_labels - 1}, got {labels[index]}"
        bad.setdefault(int(index), reason)
    good = np.delete(np.arange(total), sorted(bad))
    unreadable = [(source.item_name(index), bad[index]) for index in sorted(bad)]
    if bad and (on_bad == "stop" or not good.size):
        name, reason = unreadable[0]
        more = f" (and {len(bad) - 1:,} more of {total:,})" if len(bad) > 1 else ""
        cure = (
            "repair it or pass --data.on-bad skip"
            if good.size
            else "none of the pictures is usable"
        )
        raise InputError(f"{source.name}, {name}: {reason}{more}; {cure}")
    counts = np.bincount(labels[good], minlength=num_labels)
    modes = Counter({look.names[code]: int(n) for code, n in enumerate(look.count(good))})
    report = Report(
        count=len(good),
        per_class=dict(zip(source.class_names, counts.tolist(), strict=False)),
        sides=look.sides[good],
        modes=dict(modes.most_common()),
        unreadable=unreadable,
        understood=getattr(source, "notes", ()),
    )
    return report, good


class _Look:
    """What was seen of each picture: size and mode, or a problem."""

    def __init__(self, total: int) -> None:
        self.sides = np.zeros((total, 2), np.int64)
        self.modes = np.full(total, -1, np.int16)
        self.names: list[str] = []
        self.problems: dict[int, str] = {}

    def count(self, indices: np.ndarray) -> np.ndarray:
        """Pictures of each mode among some."""
        return np.bincount(self.modes[indices], minlength=len(self.names))

    def note(self, index: int, mode: str, size: Size) -> None:
        """Keep what a usable picture is like."""
        if mode not in self.names:
            self.names.append(mode)
        self.modes[index], self.sides[index] = self.names.index(mode), size

    @classmethod
    def read(cls, path: Path, total: int) -> _Look:
        """What is remembered; nothing where the file is missing or of no use."""
        look = cls(total)
        try:
            with np.load(path, allow_pickle=False) as file:
                sides, modes, names = file["sides"], file["modes"], json.loads(str(file["names"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return look
        if sides.shape == (total, 2) and modes.shape == (total,) and modes.max() < len(names):
            look.sides, look.modes, look.names = sides, modes, names
        return look

    def write(self, path: Path) -> None:
        """Remember it; a folder that cannot be written to is no reason to stop."""
        names = np.array(json.dumps(self.names))
        with suppress(OSError, InputError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with writing_file(path) as draft, draft.open("wb") as file:
                np.savez_compressed(file, sides=self.sides, modes=self.modes, names=names)


def _look_at(
    source: Source,
    channels: int,
    look: _Look,
    missing: np.ndarray,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Decode the pictures that are not known yet, on all cores."""

    def inspect(index: int) -> tuple[str, Size] | str:
        """Mode and size, or why the picture is bad."""
        try:
            picture = source.read(index)
            pixels = to_uint8(picture, channels)
        except InputError as error:
            return str(error).removeprefix(f"{source.item_name(index)}: ")
        # Whatever else decoding trips over belongs to this picture, not to the program.
        except Exception as error:
            return f"expected a usable picture, got {' '.join(str(error).split())}"
        mode = picture.mode if isinstance(picture, Image.Image) else str(picture.dtype)
        return mode, (pixels.shape[0], pixels.shape[1])

    def inspect_block(start: int) -> list[tuple[int, tuple[str, Size] | str]]:
        return [(i, inspect(i)) for i in missing[start : start + _BLOCK].tolist()]

    # Odd metadata and huge pictures make Pillow warn once per picture; a bad one is reported.
    with warnings.catch_warnings(), ThreadPoolExecutor(num_cores()) as pool:
        warnings.filterwarnings("ignore", module="PIL")
        done = len(look.modes) - len(missing)
        for block in pool.map(inspect_block, range(0, len(missing), _BLOCK)):
            for index, found in block:
                if isinstance(found, str):
                    look.problems[index] = found
                else:
                    look.note(index, *found)
            done += len(block)
            if progress is not None:
                progress(done, len(look.modes))
