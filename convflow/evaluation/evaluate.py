"""From pictures to scores and a result card."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from convflow import distributed
from convflow.evaluation import metrics
from convflow.evaluation.card import Card, differences, library, titled, write_json
from convflow.evaluation.detectors import Detector
from convflow.evaluation.features import Features, Progress, extract
from convflow.evaluation.pictures import (
    NpzPictures,
    PictureSet,
    SourcePictures,
    open_pictures,
    write_samples,
)
from convflow.evaluation.reference import (
    MANIFOLD_SIZE,
    SUFFIXES,
    Reference,
    check_fits,
    check_size,
    holds_statistics,
    read_reference,
)
from convflow.storage import read_json
from convflow.types import InputError

METRICS = {
    "precision_recall_k": 3,
    "density_coverage_k": 5,
    "inception_score_split": 5000,
    "kernel_subsets": 100,
    "kernel_subset_size": 1000,
    "reference_manifold": MANIFOLD_SIZE,
    "seed": 0,
}
"""The constants of the metrics, as they stand in every card."""

LEAST = 6
"""Pictures that density and coverage need on either side: five neighbours and the point."""

TITLES = {"inception": ("FID", "sFID", "KID"), "dinov2": ("FDD", "sFDD", "KDD")}
"""What distances are called with a detector; with any other FD, sFD and KD."""


def score(
    features: Features, reference: Reference, detector: str, device: torch.device | None = None
) -> dict[str, float]:
    """Return every score that features and reference allow, by title.

    Args:
        features: of the pictures that are scored.
        reference: of the real ones.
        detector: its name, from which the titles follow.
        device: where to compute; by default the CPU.

    Raises:
        InputError: too few pictures, or features of another width than the reference's.
    """
    distance, spatial, kernel = TITLES.get(detector, ("FD", "sFD", "KD"))
    kinds, found = features.kinds(), {}
    for kind, title in (("features", distance), ("spatial", spatial)):
        if kind in kinds and kind in reference.moments:
            ours, real = features.moments(kind), reference.moments[kind]
            if ours.mean.shape != real.mean.shape:
                raise InputError(
                    f"expected {len(ours.mean)} {kind} as {detector} gives, got a reference with "
                    f"{len(real.mean)}; make the reference with the same detector"
                )
            found[title] = metrics.frechet_distance(
                *(tensor.to(device) for tensor in (*ours, *real))
            )
    if "logits" in kinds:
        split = METRICS["inception_score_split"]
        found["IS"] = metrics.inception_score(features.stack("logits"), split)
    if reference.manifold is not None:
        fake = features.stack("features").to(device)
        real_features = reference.manifold.to(device)
        found["precision"], found["recall"] = metrics.precision_recall(
            real_features, fake, METRICS["precision_recall_k"]
        )
        found["density"], found["coverage"] = metrics.density_coverage(
            real_features, fake, METRICS["density_coverage_k"]
        )
        found[kernel], found[f"{kernel}-std"] = metrics.kernel_distance(
            real_features,
            fake,
            seed=METRICS["seed"],
            num_subsets=METRICS["kernel_subsets"],
            subset_size=METRICS["kernel_subset_size"],
        )
    return {titled(title, features.num): value for title, value in found.items()}


def describe_detector(detector: Detector) -> dict[str, str]:
    """Return what a card says of a detector."""
    return {
        "name": Path(detector.name).name,  # a path to the same file differs between machines
        "sha256": detector.sha256,
        "resize": detector.resize,
        "precision": "float32",
    }


@dataclass(frozen=True)
class Subject:
    """What is scored.

    Attributes:
        pictures: read by number.
        num: how many of them.
        model: for the card: a name and, for samples, the weights.
        sampling: for the card; None for pictures that were given.
    """

    pictures: PictureSet
    num: int
    model: dict[str, Any]
    sampling: dict[str, Any] | None = None

    def about(self) -> dict[str, Any]:
        """Return what a card says of the pictures themselves."""
        told = {} if self.sampling is not None else self.pictures.describe()
        told.pop("name", None)
        size, channels = list(self.pictures.size), self.pictures.channels
        return {"count": self.num, "size": size, "channels": channels, "resize": "none", **told}


@dataclass(frozen=True)
class Target:
    """What the subject is compared with: statistics, or pictures to take them from, or both."""

    known: Reference | None
    pictures: SourcePictures | NpzPictures | None
    about: dict[str, Any]


@dataclass(frozen=True)
class Work:
    """How an evaluation runs; nothing here changes a score.

    Attributes:
        device: where detector and model are.
        batch_size: pictures at once.
        progress: from a number of pictures and a word to a context that gives a `Progress`.
    """

    device: torch.device
    batch_size: int = 64
    progress: Callable[[int, str], AbstractContextManager[Progress]] = lambda num, word: (
        nullcontext(lambda count: None)
    )


def open_target(
    path: str, subject: Subject, detector: Detector, *, split: str = "train", num: int | None = None
) -> Target:
    """Return what `path` names, checked against subject and detector; nothing is computed yet.

    Args:
        path: an .npz of statistics or of pictures, or any data `open_source` reads, which are
            brought to the subject's size.
        subject: what will be compared.
        detector: the features' origin.
        split: which split, where the data have several.
        num: how many pictures, drawn with seed 0; None for all.

    Raises:
        InputError: nothing usable there; another size or detector than the subject's.
    """
    size = subject.pictures.size
    if path.endswith(".npz") and holds_statistics(Path(path)):
        if num is not None:
            raise InputError(f"--reference-num: {path} holds statistics already; leave it out")
        known = read_reference(Path(path))
        check_fits(known, path, describe_detector(detector), size)
        pictures = None
        if known.manifold is None and known.has_pictures:
            pictures = NpzPictures(Path(path), most=MANIFOLD_SIZE)
            check_size(path, pictures.size, size)
        return Target(known, pictures, known.about)
    channels = subject.pictures.channels
    found = open_pictures(path, split=split, size=size, channels=channels, num=num)
    return Target(None, found, {**found.describe(), "count": len(found)})


def make_reference(subject: Subject, detector: Detector, out: Path, work: Work) -> None:
    """Write the statistics of the subject to an .npz; every process calls this.

    Raises:
        InputError: as `extract`, or the file cannot be written.
    """
    about = {
        **subject.model,
        **subject.about(),
        "sampling": subject.sampling,
        "detector": describe_detector(detector),
        "library": library(),
    }
    with _parts_of(out, about, work) as parts:
        reference = _summarise(subject.pictures, subject.num, about, detector, parts, work)
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
) -> tuple[Card, Path]:
    """Score the subject and write the result card; every process calls this.

    Args:
        subject: what is scored.
        detector: from pictures to features.
        target: what it is compared with.
        work: device, batch size, progress.
        out: file of the card; by default scores/NAME-DETECTOR-COUNT-HASH.json.
        save_samples: an .npz for the pictures, as the ADM suite writes it.

    Returns:
        The card and its file. Only the first process's card has scores.

    Raises:
        InputError: a card is there already, an unfinished one has other settings, or as `extract`
            and `score`.
    """
    compared = len(target.pictures) if target.pictures is not None else LEAST
    for count, use in ((subject.num, "to score"), (compared, "in the reference")):
        if count < LEAST:
            raise InputError(f"expected at least {LEAST} pictures {use}, got {count}; give more")
    card = Card(
        model=subject.model,
        sampling=subject.sampling,
        pictures=subject.about(),
        detector=describe_detector(detector),
        reference=target.about,
        metrics=METRICS,
        library=library(),
        machine={"torch": torch.__version__, "device": work.device.type},
    )
    settings = dataclasses.asdict(card)
    out = out or Path("scores") / f"{_short_name(card, subject.num)}.json"
    if out.exists():
        raise InputError(
            f"expected a new file for the result card, got {out}, which is there already; read it "
            f"with convflow evaluate --compare {out}, remove it, or give another --out"
        )
    keep = save_samples is not None
    with _parts_of(out, {**settings, "keeps_pixels": keep}, work) as parts:
        reference = target.known
        if target.pictures is not None:
            count = len(target.pictures)
            folder = parts / "reference"
            found = _summarise(target.pictures, count, target.about, detector, folder, work)
            reference = (
                dataclasses.replace(reference, manifold=found.manifold) if reference else found
            )
        assert reference is not None
        with work.progress(subject.num, "scoring") as progress:
            features = extract(
                subject.pictures,
                subject.num,
                detector,
                parts / "samples",
                batch_size=work.batch_size,
                device=work.device,
                keep_pixels=keep,
                progress=progress,
            )
        if distributed.rank() == 0:
            scores = score(features, reference, detector.name, work.device)
            card = dataclasses.replace(
                card, reference=reference.about, scores=scores, samples_sha256=features.sha256()
            )
            if save_samples is not None:
                write_samples(save_samples, features.read("pixels"), subject.num)
            card.write(out)
    return card, out


def _summarise(
    pictures: PictureSet,
    num: int,
    about: dict[str, Any],
    detector: Detector,
    folder: Path,
    work: Work,
) -> Reference:
    with work.progress(num, "reference") as progress:
        features = extract(
            pictures,
            num,
            detector,
            folder,
            batch_size=work.batch_size,
            device=work.device,
            kinds=tuple(SUFFIXES),
            progress=progress,
        )
    return features.summarise(about)


@contextmanager
def _parts_of(out: Path, settings: dict[str, Any], work: Work) -> Iterator[Path]:
    """Give the folder of unfinished work beside `out`, new or of the same settings.

    It is removed when the block ends well; after an error it stays as far as it holds anything.

    Raises:
        InputError: it holds parts of other settings.
    """
    parts = out.with_name(f"{out.name}.parts")
    settings = json.loads(json.dumps({**settings, "batch_size": work.batch_size}))
    path, first = parts / "settings.json", distributed.rank() == 0
    with distributed.all_or_none(work.device):
        if path.is_file():
            found = differences(read_json(path), settings, ignored=())
            if found:
                told = "; ".join(f"{key}: {a!r}, now {b!r}" for key, (a, b) in found.items())
                raise InputError(
                    f"{parts} holds an unfinished evaluation with other settings ({told}); give "
                    "those again, remove the folder, or choose another --out"
                )
    if first:
        write_json(path, settings)
    try:
        yield parts
        worthless = True
    except BaseException:
        worthless = not any(parts.rglob("part_*"))
        raise
    finally:
        if first and worthless:
            shutil.rmtree(parts, ignore_errors=True)


def _short_name(card: Card, num: int) -> str:
    """Return a file name that two different evaluations never share."""
    settings = dataclasses.asdict(card) | {"machine": None}
    text = json.dumps(settings, sort_keys=True)
    detector = Path(card.detector["name"].partition(":")[0]).stem
    name = titled(f"{card.model['name']}-{detector}", num)
    return re.sub(r"[^-.\w]+", "-", name) + f"-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
