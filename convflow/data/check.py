"""A look at the images before a training: which can be used, and how large they are.

Few images are all decoded; of many a sample is, and of the others the headers are read. What was
seen is remembered, so that the next training on the same files begins at once.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from convflow.data.pieces import as_uint8
from convflow.data.scan import SCAN_FORMAT, Scan, scan_missing
from convflow.data.selection import Selection
from convflow.data.source import (
    Source,
    Stamp,
    StoredSource,
    SyntheticSource,
    holds_videos,
    labels_of,
)
from convflow.types import InputError, Size

Look = Literal["auto", "all", "headers", "some"]
"""What is looked at before a training.

`all` decodes all images. `headers` decodes 1,000 and reads the headers of the others. `some`
decodes 1,000. `auto` is `all` for up to 10,000 images, else `headers`, or `some` where a header
costs as much as the image.
"""

FEW_IMAGES = 10_000
"""So many are all decoded before a training."""

SAMPLE_IMAGES = 1_000
"""Of more so many are, evenly spaced."""

_MOST_DIM = 14  # images of 16 bits that use no more of them come out dark


@dataclass
class Report:
    """What a look at the images found.

    Args:
        count: Usable images, those that nobody looked at among them.
        per_class: Usable images by class name; empty for unconditional data.
        sides: (count, 2) height and width of the usable images; 0 where nobody looked.
        modes: Images by Pillow mode or array type.
        num_smaller: Usable images that must be enlarged to a size to train at.
        unreadable: (item name, reason) of every image that cannot be used.
        understood: Sentences about split, labels and files that are not read, shown first.
        num_transparent: Usable images that let through what they are laid on.
        num_deep: Usable images of 16 bits whose files do not say that fewer are used.
        used_bits: The most bits that one of those uses.
        total: Images, usable or not.
        num_decoded: Usable images that were decoded, now or before.
        stamp: Changes when the images may have; None where nothing tells.
        kept: Whether these are the images that a run began with.
        notes: More lines to show, about what becomes of the images.
        noun: What they are called.
    """

    count: int
    per_class: dict[str, int] = field(default_factory=dict)
    sides: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    modes: dict[str, int] = field(default_factory=dict)
    num_smaller: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    understood: Sequence[str] = ()
    num_transparent: int = 0
    num_deep: int = 0
    used_bits: int = 16
    total: int = 0
    num_decoded: int | None = None
    stamp: str | None = None
    kept: bool = False
    notes: Sequence[str] = ()
    noun: str = "images"

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Smallest, median and largest (height, width), each side for itself."""
        known = self.sides[self.sides[:, 0] > 0]
        if not len(known):
            known = np.zeros((1, 2), int)
        extremes = [f(known, axis=0).astype(int) for f in (np.min, np.median, np.max)]
        return tuple((int(height), int(width)) for height, width in extremes)

    def __str__(self) -> str:
        least, median, most = (f"{height}x{width}" for height, width in self.sizes)
        size = least if least == most else f"{least} to {most}, median {median}"
        size = size if self.sides.any() else "of unknown sizes"
        modes = ", ".join(f"{count:,} {mode}" for mode, count in self.modes.items())
        lines = [f"{self.count:,} {self.noun}, {size} (height x width); {modes}"]
        if self.num_decoded is not None and self.num_decoded < self.count:
            read = int(np.count_nonzero(self.sides[:, 0])) - self.num_decoded
            headers = f", of {read:,} the header was read" if read else ""
            lines.append(
                f"{self.num_decoded:,} were decoded{headers}; what is wrong with others shows when "
                "they are trained on (--data.check all decodes them all before)"
            )
        lines += self.understood
        if self.per_class:
            fewest, largest = (
                f(self.per_class, key=self.per_class.__getitem__) for f in (min, max)
            )
            low, high = self.per_class[fewest], self.per_class[largest]
            span = f"{low:,} ({fewest}) to {high:,} ({largest}) {self.noun}"
            each = f"{low:,} {self.noun} each" if low == high else span
            lines.append(f"{len(self.per_class)} classes: {each}")
            if lost := [name for name, count in self.per_class.items() if not count]:
                named = ", ".join([*lost[:5], "..."] if len(lost) > 5 else lost)
                lines.append(f"classes without a usable image: {named}")
        if self.num_smaller:
            lines.append(f"{self.num_smaller:,} are smaller than wanted and will be enlarged")
        if self.num_transparent:
            lines.append(f"{self.num_transparent:,} images are transparent: they are laid on white")
        if self.num_deep and self.used_bits <= _MOST_DIM:
            factor = 2 ** (16 - self.used_bits)
            lines.append(
                f"{self.num_deep:,} images look like {self.used_bits} bits in 16: they come out "
                f"{factor} times too dark; multiply their values by {factor} and save them again"
            )
        if self.unreadable:
            names = ", ".join(name for name, _ in self.unreadable[:5])
            more = ", ..." if len(self.unreadable) > 5 else ""
            lines.append(f"{len(self.unreadable):,} cannot be used: {names}{more}")
        return "\n".join([*lines, *self.notes])


def check_images(
    source: Source,
    *,
    channels: int,
    size: Size,
    on_bad: Literal["stop", "skip"] = "stop",
    look: Look = "auto",
    sized: bool = False,
    memory: Path | None = None,
    selection: Selection | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Report, np.ndarray]:
    """Look at the images once, on all cores, and say what is there.

    Synthetic images cannot be bad: only the first of them is drawn.

    Args:
        source: The images.
        channels: Wanted channels.
        size: Height and width in pixels at which synthetic images are scanned.
        on_bad: `stop` raises if any image is bad; `skip` leaves bad ones out.
        look: At what, see `Look`.
        sized: Whether the size of every image must be known.
        memory: Folder where a scan is kept for the next time, if the source can tell its content
            apart by a stamp; images that were bad are scanned again.
        selection: What a run that goes on began with: these images are returned, and with `skip`
            those of them that are bad by now are too, to be replaced where they are read.
        progress: Called with (images scanned, images in all) now and then.

    Returns:
        The report, and the sorted indices (int64) of the usable images.

    Raises:
        InputError: An image is bad and `on_bad` is `stop`, all are, or there are none.
    """
    if on_bad not in ("stop", "skip"):
        raise InputError(f"expected on-bad 'stop' or 'skip', got {on_bad!r}")
    if (total := len(source)) == 0:
        raise InputError(f"expected images in {source.name}, got none")
    if isinstance(source, SyntheticSource):
        return _synthetic(source, source, channels, size), np.arange(total)
    scan, stamp = _scan(source, channels, _parts(source, look, sized), memory, progress)
    labels = labels_of(source)
    bad = scan.problems | _wrong_labels(labels, len(source.class_names))
    wanted = np.arange(total) if selection is None else selection.indices
    good = wanted[~np.isin(wanted, list(bad))]
    _refuse_bad(source, on_bad, bad, wanted, len(good))
    chosen = good if selection is None else selection.indices
    report = Report(
        len(chosen),
        per_class=_per_class(source, labels[chosen]),
        sides=scan.sides[good] if selection is None else selection.sides,
        unreadable=[(source.item_name(index), bad[index]) for index in sorted(bad)],
        understood=getattr(source, "notes", ()),
        total=total,
        stamp=stamp,
        kept=selection is not None,
        **_seen(scan, good, holds_videos(source)),
    )
    return report, chosen


def _parts(source: Source, look: Look, sized: bool) -> list[tuple[np.ndarray, bool]]:
    """Which images are looked at, in turn, and whether they are decoded."""
    everything, total = np.arange(len(source)), len(source)
    stored = isinstance(source, StoredSource)
    if look == "all" or (look == "auto" and total <= FEW_IMAGES) or (sized and not stored):
        return [(everything, True)]
    count = min(total, SAMPLE_IMAGES)
    sample = np.linspace(0, total - 1, count).round().astype(np.int64)
    cheap = isinstance(source, StoredSource) and source.head is not None
    headers = sized or look == "headers" or (look == "auto" and cheap)
    return [(sample, True), *([(everything, False)] if headers else [])]


def _seen(scan: Scan, good: np.ndarray, videos: bool) -> dict[str, Any]:
    """What a scan saw in usable images or clips of videos, as fields of a `Report`."""
    deep = scan.bits[good][scan.bits[good] > 0]
    known = scan.modes[good]
    counted = np.bincount(known[known >= 0], minlength=len(scan.names)).tolist()
    modes = Counter(dict(zip(scan.names, counted, strict=True)))
    return {
        "modes": {mode: n for mode, n in modes.most_common() if n},
        "num_transparent": int(scan.transparent[good].sum()),
        "num_deep": len(deep),
        "num_decoded": int(scan.decoded[good].sum()),
        "used_bits": int(deep.max(initial=0)),
        "noun": "clips" if videos else "images",
    }


def _synthetic(source: Source, drawn: SyntheticSource, channels: int, size: Size) -> Report:
    """What is known of images that are drawn; the first is, for its faults."""
    as_uint8(drawn.draw(0, size), channels, size)
    total, per_class = len(source), _per_class(source, labels_of(source))
    sides = np.tile(np.array(size[-2:]), (total, 1))
    noun = "videos" if len(size) == 3 else "images"
    return Report(total, per_class, sides, {"drawn": total}, total=total, noun=noun)


def _per_class(source: Source, labels: np.ndarray) -> dict[str, int]:
    """How many images each class has."""
    counts = np.bincount(labels, minlength=len(source.class_names)).tolist()
    return dict(zip(source.class_names, counts, strict=False))


def _scan(
    source: Source,
    channels: int,
    parts: Sequence[tuple[np.ndarray, bool]],
    memory: Path | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[Scan, str | None]:
    """Look at what no earlier scan remembers, and remember it; return it and the source's stamp."""
    tell: Callable[[], Stamp] | None = getattr(source, "stamp", None)
    stamp, path = None if tell is None else tell(), None
    marks = np.arange(len(source), dtype=np.uint64)
    if memory is not None and stamp is not None:
        place, whole = Path(source.name).expanduser().absolute(), stamp.text
        if stamp.marks is not None:
            marks, whole = stamp.marks, ""
        else:  # another part or column of the same files has other images
            names = "\0".join(map(source.item_name, range(len(source))))
            whole += hashlib.sha256(names.encode("utf-8", "surrogatepass")).hexdigest()
        limit = getattr(source, "max_pixels", None)
        known = repr((SCAN_FORMAT, str(place), whole, channels, limit))
        path = memory / f"{hashlib.sha256(known.encode()).hexdigest()[:32]}.npz"
    scan, found = Scan(marks) if path is None else Scan.read(path, marks), False
    for number, (indices, decoded) in enumerate(parts, 1):
        seen = scan.decoded if decoded else scan.modes >= 0
        missing = indices[~seen[indices] & ~np.isin(indices, list(scan.problems))]
        if missing.size:
            found = True
            shown = progress if number == len(parts) else None
            scan_missing(source, channels, scan, missing, shown, decoded)
    if found and path is not None:
        scan.write(path)
    return scan, stamp and stamp.text


def _wrong_labels(labels: np.ndarray, num_classes: int) -> dict[int, str]:
    """Why images whose label is no class are bad, by index."""
    most = max(num_classes, 1) - 1
    wrong = np.flatnonzero((labels < 0) | (labels > most)).tolist()
    return {i: f"expected a label in 0..{most}, got {labels[i]}" for i in wrong}


def _refuse_bad(
    source: Source, on_bad: str, bad: dict[int, str], wanted: np.ndarray, num_good: int
) -> None:
    """Raise InputError for a bad image among the wanted ones, or where none is usable."""
    met = np.intersect1d(wanted, list(bad)).tolist()
    if not met or (on_bad == "skip" and num_good):
        return
    others = ", ".join([*map(source.item_name, met[1:6]), *["..."] * (len(met) > 6)])
    more = f" (and {len(met) - 1:,} more of {len(wanted):,}: {others})" if len(met) > 1 else ""
    cure = "repair it or pass --data.on-bad skip" if num_good else "none of the images is usable"
    raise InputError(f"{source.name}, {source.item_name(met[0])}: {bad[met[0]]}{more}; {cure}")
