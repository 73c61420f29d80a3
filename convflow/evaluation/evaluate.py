"""From images to scores and a result card."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from convflow import distributed
from convflow.data.timeline import Clips
from convflow.evaluation.card import Card, library, read_card, titled, write_json
from convflow.evaluation.detectors import Detector
from convflow.evaluation.features import Features, extract
from convflow.evaluation.image_sets import (
    ImageSet,
    NpzImages,
    SourceImages,
    write_samples,
)
from convflow.evaluation.reference import (
    MANIFOLD_SIZE,
    SUFFIXES,
    Reference,
    check_fits,
    check_image_size,
    holds_statistics,
    read_reference,
)
from convflow.evaluation.scores import (
    MIN_IMAGES,
    choose_metrics,
    constants,
    describe_detector,
    probe,
    score,
)
from convflow.evaluation.video_sets import (
    FrameImages,
    check_clip,
    clip_entry,
    open_like,
    title_prefix,
)
from convflow.settings.read import differences
from convflow.storage import claimed, read_json
from convflow.types import InputError, Progress

NAMED = "metrics_named"
"""The key of the metrics that were asked for. Unfinished features serve other metrics too."""


@dataclass(frozen=True)
class Subject:
    """What is scored.

    Attributes:
        images: read by number.
        num: how many of them.
        model: for the card: a name and, for samples, the weights.
        sampling: for the card; None for images that were given.
    """

    images: ImageSet
    num: int
    model: dict[str, Any]
    sampling: dict[str, Any] | None = None

    def about(self) -> dict[str, Any]:
        """Return what a card says of the images themselves."""
        described = {} if self.sampling is not None else self.images.describe()
        described.pop("name", None)
        size, channels = list(self.images.size), self.images.channels
        return {
            "count": self.num,
            "size": size,
            "channels": channels,
            "resize": "none",
            **described,
            **clip_entry(self.images),
        }


@dataclass(frozen=True)
class Target:
    """What the subject is compared with: statistics, or images to take them from, or both."""

    statistics: Reference | None
    images: SourceImages | NpzImages | FrameImages | None
    about: dict[str, Any]


@dataclass(frozen=True)
class Work:
    """How an evaluation runs; nothing here changes a score.

    Attributes:
        device: where detector and model are.
        batch_size: images at once.
        progress: from a number of images and a word to a context that gives a `Progress`.
    """

    device: torch.device
    batch_size: int = 64
    progress: Callable[[int, str], AbstractContextManager[Progress]] = lambda num, word: (
        nullcontext(lambda count: None)
    )


def open_target(
    path: str,
    subject: Subject,
    detector: Detector,
    *,
    split: str = "train",
    image_column: str = "",
    num: int | None = None,
    clips: Clips | None = None,
) -> Target:
    """Return what `path` names, checked against subject and detector; nothing is computed yet.

    Args:
        path: an .npz of statistics or of images, or any data `open_source` reads, which are
            brought to the subject's size.
        subject: what will be compared.
        detector: the features' origin.
        split: which split, where the data have several.
        image_column: the column of images, where a table has several.
        num: how many images, drawn with seed 0; None for all.
        clips: how clips are taken from videos; None for their own frames one after the other.

    Raises:
        InputError: nothing usable there; another size or detector than the subject's.
    """
    size, channels = subject.images.size, subject.images.channels
    if path.endswith(".npz") and holds_statistics(Path(path)):
        if num is not None:
            raise InputError(f"--reference-num: {path} holds statistics already; leave it out")
        statistics = read_reference(Path(path))
        check_clip(path, statistics.about, clip_entry(subject.images))
        check_fits(statistics, path, describe_detector(detector, subject.images), size, channels)
        images = None
        if statistics.manifold is None and statistics.has_images:
            images = NpzImages(Path(path), most=MANIFOLD_SIZE)
            check_image_size(path, images.size, size)
        return Target(statistics, images, statistics.about)
    found = open_like(
        subject.images, path, split=split, image_column=image_column, num=num, clips=clips
    )
    return Target(None, found, {**found.describe(), "count": len(found), **clip_entry(found)})


def make_reference(subject: Subject, detector: Detector, out: Path, work: Work) -> None:
    """Write the statistics of the subject to an .npz; every process calls this.

    Raises:
        InputError: as `extract`, or the file cannot be written.
    """
    about = {
        **subject.model,
        **subject.about(),
        "sampling": subject.sampling,
        "detector": describe_detector(detector, subject.images),
        "library": library(),
    }
    if subject.num < MIN_IMAGES:
        raise InputError(f"expected at least {MIN_IMAGES} images, got {subject.num}; give more")
    if _is_finished(out, about, work):
        return
    if out.exists():
        raise InputError(f"{out} is there already; remove it or choose another name")
    with _parts_of(out, about, work) as parts:
        reference = _summarise(subject.images, subject.num, about, detector, parts, work)
        if distributed.rank() == 0:
            reference.save(out)


def evaluate(
    subject: Subject,
    detector: Detector,
    target: Target,
    work: Work,
    *,
    out: Path | None = None,
    save_samples: Path | None = None,
    metrics: Sequence[str] = (),
) -> tuple[Card, Path]:
    """Score the subject and write the result card; every process calls this.

    Args:
        subject: what is scored.
        detector: from images to features.
        target: what it is compared with.
        work: device, batch size, progress.
        out: file of the card; by default scores/NAME-DETECTOR-COUNT-HASH.json.
        save_samples: an .npz for the images, as the ADM suite writes it.
        metrics: names of them, as `score` takes them; by default all there are.

    Returns:
        The card and its file. Only the first process's card has scores.

    Raises:
        InputError: a card is there already, an unfinished one has other settings, or as `extract`
            and `score`.
    """
    with distributed.all_or_none(work.device):
        check_subject(subject, detector, target, metrics)
        card = Card(
            model=subject.model,
            sampling=subject.sampling,
            pictures=subject.about(),
            detector=describe_detector(detector, subject.images),
            reference=target.about,
            metrics=constants(detector.name),
            library=library(),
            machine={"torch": torch.__version__, "device": work.device.type},
        )
    settings = {**dataclasses.asdict(card), "save_samples": str(save_samples), NAMED: [*metrics]}
    out = out or Path("scores") / f"{_short_name(card, subject.num, metrics)}.json"
    if _is_finished(out, settings, work):
        return read_card(out), out
    _check_new(out, save_samples, subject)
    with _parts_of(out, settings, work) as parts:
        reference = reference_of(target, detector, parts / "reference", work)
        folder, keep = parts / "samples", save_samples is not None
        features = _extract(
            subject.images, subject.num, "scoring", detector, folder, work, keep_pixels=keep
        )
        if distributed.rank() == 0:
            prefix = title_prefix(subject.images)
            scores, better = score(features, reference, detector, work.device, metrics, prefix)
            card = dataclasses.replace(card, reference=reference.about, scores=scores)
            card = dataclasses.replace(card, better=better, samples_sha256=features.sha256())
            if save_samples is not None:
                write_samples(save_samples, features.read("pixels"), subject.num)
            card.write(out)
    return card, out


def _check_new(out: Path, save_samples: Path | None, subject: Subject) -> None:
    """Raise InputError where a file is there already, or cannot hold what is scored."""
    if save_samples is not None and len(subject.images.size) == 3:
        raise InputError("--save-samples: expected images, got videos; use convflow sample")
    unfinished = parts_path(out).exists()  # a killed process may have written the samples
    for path in [out] if unfinished or save_samples is None else [out, save_samples]:
        if path.exists():
            raise InputError(
                f"expected a new file, got {path}, which is there already; read a result card with "
                f"convflow evaluate --compare {path}, remove it, or choose another name"
            )


def check_subject(
    subject: Subject, detector: Detector, target: Target, names: Sequence[str]
) -> None:
    """Raise InputError where a metric cannot be computed, or either side has too few images."""
    compared = MIN_IMAGES
    if target.images is not None:
        compared = len(target.images)
    elif target.statistics is not None and target.statistics.manifold is not None:
        compared = len(target.statistics.manifold)
    for count, use in ((subject.num, "to score"), (compared, "in the reference")):
        if count < MIN_IMAGES:
            raise InputError(f"expected at least {MIN_IMAGES} images {use}, got {count}; give more")
    ours = {kind: rows.shape[1] for kind, rows in probe(detector, subject.images).items()}
    real = {kind: ours[kind] for kind in SUFFIXES if kind in ours}
    if target.statistics is not None:
        real = target.statistics.widths()
    if target.images is not None:
        real["manifold"] = ours["features"]
    choose_metrics(names, detector.name, ours, real)


def reference_of(target: Target, detector: Detector, folder: Path, work: Work) -> Reference:
    """Return the statistics of a target, those of its images computed."""
    if target.images is None:
        assert target.statistics is not None
        return target.statistics
    found = _summarise(target.images, len(target.images), target.about, detector, folder, work)
    statistics = target.statistics
    return dataclasses.replace(statistics, manifold=found.manifold) if statistics else found


def _summarise(
    images: ImageSet, num: int, about: dict[str, Any], detector: Detector, folder: Path, work: Work
) -> Reference:
    kinds = tuple(SUFFIXES)
    features = _extract(images, num, "reference", detector, folder, work, kinds=kinds)
    if distributed.rank():  # the first process alone compares
        return Reference({}, None, about)
    return features.summarise(about)


def _extract(
    images: ImageSet,
    num: int,
    word: str,
    detector: Detector,
    folder: Path,
    work: Work,
    **options: Any,
) -> Features:
    with work.progress(num, word) as progress:
        return extract(
            images,
            num,
            detector,
            folder,
            batch_size=work.batch_size,
            device=work.device,
            progress=progress,
            **options,
        )


@contextmanager
def _parts_of(out: Path, settings: dict[str, Any], work: Work) -> Iterator[Path]:
    """Give the folder of unfinished work beside `out`, new or of the same settings.

    It is removed when the block ends well; after an error it stays as far as it holds anything.

    Raises:
        InputError: it holds parts of other settings.
    """
    parts, settings = parts_path(out), _as_json(settings, work)
    path, first = parts / "settings.json", distributed.rank() == 0
    with ExitStack() as held:
        with distributed.all_or_none(work.device):
            held.enter_context(claimed(parts, "evaluation", "--out", first))
            known = _settings_in(path)
            if known is None and first:
                for part in parts.rglob("part_*"):  # of settings that nobody knows
                    part.unlink()
            served = {NAMED: settings.get(NAMED)}
            found = {} if known is None else differences(known | served, settings)
            if found:
                changes = "; ".join(f"{key}: {a!r}, now {b!r}" for key, (a, b) in found.items())
                raise InputError(
                    f"{parts} holds an unfinished evaluation with other settings ({changes}); give "
                    "those again, remove the folder, or choose another --out"
                )
        worthless = False
        try:
            with distributed.all_or_none(work.device):
                if first:
                    write_json(path, settings)
            yield parts
            worthless = True
        except BaseException:
            worthless = first and not any(parts.rglob("part_*"))
            raise
        finally:
            if first and worthless:
                shutil.rmtree(parts, ignore_errors=True)


def _is_finished(out: Path, settings: dict[str, Any], work: Work) -> bool:
    """Return whether only the removal of the parts was left to do, and do it."""
    parts = parts_path(out)
    known = parts / "settings.json"
    finished = out.exists() and _settings_in(known) == _as_json(settings, work)
    distributed.barrier()
    if finished and distributed.rank() == 0:
        shutil.rmtree(parts, ignore_errors=True)
    return finished


def _settings_in(path: Path) -> dict[str, Any] | None:
    """Return the settings of an unfinished evaluation; None where they are absent or damaged."""
    try:
        return read_json(path)
    except InputError:
        return None


def parts_path(out: Path) -> Path:
    """Return the folder of unfinished work on a card."""
    return out.with_name(f"{out.name}.parts")


def _as_json(settings: dict[str, Any], work: Work) -> dict[str, Any]:
    return json.loads(json.dumps({**settings, "batch_size": work.batch_size}))


def _short_name(card: Card, num: int, metrics: Sequence[str]) -> str:
    """Return a file name that two different evaluations never share."""
    settings = dataclasses.asdict(card) | {"machine": None}
    settings |= {NAMED: [*metrics]} if metrics else {}
    text = json.dumps(settings, sort_keys=True)
    detector = Path(card.detector["name"].partition(":")[0]).stem
    name = titled(f"{card.model['name']}-{detector}", num)
    return re.sub(r"[^-.\w]+", "-", name) + f"-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
