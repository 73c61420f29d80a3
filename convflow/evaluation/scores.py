"""All scores that features and a reference allow, by title."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from convflow.evaluation import metrics
from convflow.evaluation.card import titled
from convflow.evaluation.detectors import PUBLISHED, Detector
from convflow.evaluation.features import Features
from convflow.evaluation.pictures import PictureSet
from convflow.evaluation.reference import MANIFOLD_SIZE, Reference
from convflow.evaluation.statistics import float64_device
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
"""The constants of the metrics, where a detector has none of its own."""

NEIGHBOURS = {"dinov2": 5, "dinov2-8bit": 5}
"""k of precision and recall where it is another, by detector: Stein et al. 2023."""

LEAST = 6
"""Pictures that density and coverage need on either side: five neighbours and the point."""

_FDD = ("FDD", "sFDD", "KDD")
TITLES = {"inception": ("FID", "sFID", "KID"), "dinov2": _FDD, "dinov2-8bit": _FDD}
"""What distances are called with published weights; with any others FD, sFD and KD."""


def constants(detector: str) -> dict[str, int]:
    """Return the constants of the metrics with a detector, as they stand in its cards."""
    usual = METRICS["precision_recall_k"]
    return METRICS | {"precision_recall_k": NEIGHBOURS.get(detector, usual)}


def score(
    features: Features, reference: Reference, detector: Detector, device: torch.device | None = None
) -> dict[str, float]:
    """Return every score that features and reference allow, by title.

    Args:
        features: of the pictures that are scored.
        reference: of the real ones.
        detector: that gave the features; the titles follow from it.
        device: where to compute; by default the CPU.

    Raises:
        InputError: too few pictures, or features of another width than the reference's.
    """
    known, chosen = detector.name in PUBLISHED, constants(detector.name)
    known = known and detector.sha256.startswith(PUBLISHED[detector.name].sha256)
    distance, spatial, kernel = TITLES[detector.name] if known else ("FD", "sFD", "KD")
    device = None if device is None else float64_device(device)
    kinds, found = features.kinds(), {}
    for kind, title in (("features", distance), ("spatial", spatial)):
        if kind in kinds and kind in reference.moments:
            ours, real = features.moments(kind), reference.moments[kind]
            if ours.mean.shape != real.mean.shape:
                raise InputError(
                    f"expected {len(ours.mean)} {kind} as {detector.name} gives, got a reference "
                    f"with {len(real.mean)}; make the reference with the same detector"
                )
            found[title] = metrics.frechet_distance(
                *(tensor.to(device) for tensor in (*ours, *real))
            )
    if "logits" in kinds:
        split = chosen["inception_score_split"]
        found["IS"] = metrics.inception_score(features.stack("logits"), split)
    if reference.manifold is not None:
        fake = features.stack("features").to(device)
        real_features = reference.manifold.to(device)
        found["precision"], found["recall"] = metrics.precision_recall(
            real_features, fake, chosen["precision_recall_k"]
        )
        found["density"], found["coverage"] = metrics.density_coverage(
            real_features, fake, chosen["density_coverage_k"]
        )
        found[kernel], found[f"{kernel}-std"] = metrics.kernel_distance(
            real_features,
            fake,
            seed=chosen["seed"],
            num_subsets=chosen["kernel_subsets"],
            subset_size=chosen["kernel_subset_size"],
        )
    return {titled(title, features.num): value for title, value in found.items()}


def describe_detector(detector: Detector, pictures: PictureSet) -> dict[str, str]:
    """Return what a card says of a detector.

    The hash of the user's code may miss weights that it loads; what it makes of two pictures of
    noise, at the size of `pictures`, tells such detectors apart.
    """
    told = {
        "name": Path(detector.name).name,  # a path to the same file differs between machines
        "sha256": detector.sha256,
        "resize": detector.resize,
        "precision": "float32",
    }
    if detector.name not in PUBLISHED:
        shape = (2, pictures.channels, *pictures.size)
        noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        features = detector(torch.from_numpy(noise))["features"]
        told["probe"] = f"{features.double().norm():.3g}"
    return told
