"""All scores that features and a reference allow: a row for each metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from convflow.evaluation import metrics
from convflow.evaluation.card import titled
from convflow.evaluation.detectors import PUBLISHED, Detector
from convflow.evaluation.features import Features
from convflow.evaluation.image_sets import ImageSet
from convflow.evaluation.reference import MANIFOLD_SIZE, Reference
from convflow.evaluation.statistics import float64_device
from convflow.settings.kinds import Table
from convflow.types import InputError

CONSTANTS = {
    "precision_recall_k": 3,
    "density_coverage_k": 5,
    "inception_score_split": 5000,
    "kernel_subsets": 100,
    "kernel_subset_size": 1000,
    "reference_manifold": MANIFOLD_SIZE,
    "seed": 0,
}
"""The constants of the metrics, where a detector has none of its own."""

NEIGHBOURS = {"dinov2": 5, "dinov2-8bit": 5}
"""k of precision and recall where it is another, by detector: Stein et al. 2023."""

MIN_IMAGES = 6
"""Images that density and coverage need on either side: five neighbours and the point."""

_FDD = {"FD": "FDD", "sFD": "sFDD", "KD": "KDD", "KD-std": "KDD-std"}
TITLES = {
    "inception": {"FD": "FID", "sFD": "sFID", "KD": "KID", "KD-std": "KID-std"},
    "dinov2": _FDD,
    "dinov2-8bit": _FDD,
}
"""What distances are called with published weights; with any others as in their rows."""

Better = Literal["lower", "higher", "spread"]
"""Which values of a score are better; a spread is the standard deviation of another score."""


@dataclass(frozen=True)
class Comparison:
    """Images that are scored beside real ones, as the features of one detector.

    Attributes:
        features: of the images that are scored.
        reference: of the real ones.
        detector: that gave the features.
        device: where to compute, in float64; None for the CPU.
    """

    features: Features
    reference: Reference
    detector: Detector
    device: torch.device | None = None

    def moments(self, kind: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return our mean (F,) and covariance (F, F), then the real ones, of a kind of feature."""
        ours, real = self.features.moments(kind), self.reference.moments[kind]
        a, b, c, d = (tensor.to(self.device) for tensor in (*ours, *real))
        return a, b, c, d

    @cached_property
    def fake(self) -> Tensor:
        """The features (N, F) of the images that are scored."""
        return self.features.stack("features").to(self.device)

    @cached_property
    def real(self) -> Tensor:
        """The features (M, F) of some of the real ones; needs "manifold"."""
        assert self.reference.manifold is not None
        return self.reference.manifold.to(self.device)

    @property
    def constants(self) -> dict[str, int]:
        """The constants of the metrics."""
        return constants(self.detector.name)


@dataclass(frozen=True)
class Metric:
    """One computation and the scores that come out of it.

    Attributes:
        better: by title of each score which values are better.
        needs: what `compute` reads: "features" and "spatial" for their moments, "logits", or
            "manifold" for single features of both sides.
        compute: from a `Comparison` to the scores, in the order of the titles.

    Examples:
        >>> Metric({"IS": "higher"}, ("logits",), lambda c: (1.0,)).better
        {'IS': 'higher'}
    """

    better: Mapping[str, Better]
    needs: tuple[str, ...]
    compute: Callable[[Comparison], tuple[float, ...]]


def _frechet(kind: str) -> Callable[[Comparison], tuple[float, ...]]:
    def compute(pair: Comparison) -> tuple[float, ...]:
        mean, covariance, real_mean, real_covariance = pair.moments(kind)
        return (metrics.frechet_distance(mean, covariance, real_mean, real_covariance),)

    return compute


def _inception_score(pair: Comparison) -> tuple[float, ...]:
    split = pair.constants["inception_score_split"]
    return (metrics.inception_score(pair.features.stack("logits"), split),)


def _precision_recall(pair: Comparison) -> tuple[float, ...]:
    return metrics.precision_recall(pair.real, pair.fake, pair.constants["precision_recall_k"])


def _density_coverage(pair: Comparison) -> tuple[float, ...]:
    return metrics.density_coverage(pair.real, pair.fake, pair.constants["density_coverage_k"])


def _kernel_distance(pair: Comparison) -> tuple[float, ...]:
    chosen = pair.constants
    return metrics.kernel_distance(
        pair.real,
        pair.fake,
        seed=chosen["seed"],
        num_subsets=chosen["kernel_subsets"],
        subset_size=chosen["kernel_subset_size"],
    )


METRICS: Table[Metric] = Table(
    "metric",
    Metric,
    {
        "fid": Metric({"FD": "lower"}, ("features",), _frechet("features")),
        "sfid": Metric({"sFD": "lower"}, ("spatial",), _frechet("spatial")),
        "is": Metric({"IS": "higher"}, ("logits",), _inception_score),
        "precision-recall": Metric(
            {"precision": "higher", "recall": "higher"}, ("manifold",), _precision_recall
        ),
        "density-coverage": Metric(
            {"density": "higher", "coverage": "higher"}, ("manifold",), _density_coverage
        ),
        "kid": Metric({"KD": "lower", "KD-std": "spread"}, ("manifold",), _kernel_distance),
    },
)
"""All metrics by name, in the order of a result card."""


def constants(detector: str) -> dict[str, int]:
    """Return the constants of the metrics with a detector, as they stand in its cards."""
    usual = CONSTANTS["precision_recall_k"]
    return CONSTANTS | {"precision_recall_k": NEIGHBOURS.get(detector, usual)}


def choose_metrics(
    names: Iterable[str], detector: str, ours: Mapping[str, int], real: Mapping[str, int]
) -> dict[str, Metric]:
    """Return the metrics that can be computed, by name.

    Args:
        names: of the metrics, as of `score`.
        detector: its name, for messages.
        ours: how long the features of the detector are, by kind.
        real: how long those of the reference are, see `Reference.widths`.

    Raises:
        InputError: no such metric, something that a named metric needs is not there, or features
            of another width than the reference's.
    """
    names, found = list(names), dict[str, Metric]()
    there = (ours.keys() & {*real, "logits"}) | (real.keys() & {"manifold"})
    for name in names or METRICS:
        metric = METRICS.find(name)
        lacking = [need for need in metric.needs if need not in there]
        if lacking and names:
            raise InputError(
                f"--metrics: expected {lacking[0]} of {detector} and of the reference for {name}, "
                f"got none; leave {name} out, or use another detector or reference"
            )
        if not lacking:
            found[name] = metric
    for kind in (need for metric in found.values() for need in metric.needs if need in real):
        width = ours["features" if kind == "manifold" else kind]
        if width != real[kind]:
            raise InputError(
                f"expected {width} {kind} as {detector} gives, got a reference with {real[kind]}; "
                "make the reference with the same detector"
            )
    return found


def score(
    features: Features,
    reference: Reference,
    detector: Detector,
    device: torch.device | None = None,
    names: Iterable[str] = (),
    prefix: str = "",
) -> tuple[dict[str, float], dict[str, Better]]:
    """Return every score that features and reference allow, and which values are better, by title.

    Args:
        features: of the images that are scored.
        reference: of the real ones.
        detector: that gave the features; the titles follow from it.
        device: where to compute; by default the CPU.
        names: of the metrics, in `METRICS` or `package.module:Name`; by default all that the
            features and the reference allow.
        prefix: of the titles, such as "frame-".

    Raises:
        InputError: too few images, or as `choose_metrics`.
    """
    known = detector.name in PUBLISHED
    known = known and detector.sha256.startswith(PUBLISHED[detector.name].sha256)
    titles = TITLES[detector.name] if known else {}
    device = None if device is None else float64_device(device)
    pair = Comparison(features, reference, detector, device)
    scores: dict[str, float] = {}
    better: dict[str, Better] = {}
    chosen = choose_metrics(names, detector.name, features.widths(), reference.widths())
    for metric in chosen.values():
        for title, value in zip(metric.better, metric.compute(pair), strict=True):
            shown = prefix + titled(titles.get(title, title), features.num)
            scores[shown], better[shown] = float(value), metric.better[title]
    return scores, better


def describe_detector(detector: Detector, images: ImageSet) -> dict[str, str]:
    """Return what a card says of a detector.

    The hash of the user's code may miss weights that it loads; what it makes of two images of
    noise, at the size of `images`, tells such detectors apart.
    """
    description = {
        "name": Path(detector.name).name,  # a path to the same file differs between machines
        "sha256": detector.sha256,
        "resize": detector.resize,
        "precision": "float32",
    }
    if detector.name not in PUBLISHED:
        norm = probe(detector, images)["features"].double().norm()
        description["probe"] = f"{norm:.3g}"
    return description


def probe(detector: Detector, images: ImageSet) -> dict[str, Tensor]:
    """Return what a detector makes of two images of noise, of the size of `images`."""
    shape = (2, images.channels, *images.size)
    if shape not in detector.probes:
        noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        detector.probes[shape] = detector(torch.from_numpy(noise))
    return detector.probes[shape]
