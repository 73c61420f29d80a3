"""Scores of samples during training: those that `convflow evaluate` gives for the same weights."""

from __future__ import annotations

import copy
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from convflow import distributed
from convflow.evaluation.detectors import open_detector
from convflow.evaluation.evaluate import (
    Subject,
    Target,
    Work,
    check_subject,
    evaluate,
    open_target,
    parts_path,
    reference_of,
)
from convflow.evaluation.scores import METRICS
from convflow.evaluation.video_sets import FrameImages, scored_as
from convflow.generate import Samples
from convflow.models.backbone import Backbone
from convflow.models.families import build
from convflow.models.zoo import FAMILIES
from convflow.parallel.single import Single
from convflow.training.config import ScoreConfig
from convflow.training.stopping import Stop
from convflow.types import InputError

log = logging.getLogger("convflow")


class _Stopped(Exception):
    """Scoring ends here."""


class Scorer:
    """Scores samples of one network again and again, against the same reference.

    All processes that hold the network share the work. Each score leaves a result card in the
    folder `scores` of the run.

    Args:
        config: what to score, and against what.
        samples: the series that is scored, see `series`.
        run: the run folder.
        device: of this process.

    Raises:
        InputError: a detector, metric or reference that cannot be used; code of a user that was
            not imported.
    """

    def __init__(
        self, config: ScoreConfig, samples: Samples, run: Path, device: torch.device
    ) -> None:
        self.metrics = config.metrics.split(",")
        self.num, self.folder, self.work = config.num, run / "scores", Work(device)
        try:
            self._open(config, samples)
        except InputError as error:
            raise InputError(f"--monitor.score: {error}") from error

    def _open(self, config: ScoreConfig, samples: Samples) -> None:
        """Open detector and reference, and check them against each other."""
        place, first = config.detector.rpartition(":")[0], distributed.rank() == 0
        if place and place not in sys.modules:
            raise InputError(
                "expected a detector whose module you have imported, got "
                f"{config.detector}; add --import MODULE and give it as MODULE:name"
            )
        for name in self.metrics:
            METRICS.find(name, trusted=False)
        for mine in (first, not first):  # the first process downloads, the others find it there
            with distributed.all_or_none(self.work.device):
                if mine:
                    self.detector = open_detector(config.detector, device=self.work.device)
        subject = self._subject(samples, {})
        self.target = open_target(config.reference, subject, self.detector)
        check_subject(subject, self.detector, self.target, self.metrics)

    def _subject(
        self, samples: Samples, model: dict[str, Any], sampling: dict[str, Any] | None = None
    ) -> Subject:
        """Return samples as the detector is given them."""
        images = scored_as(samples, self.detector.name)
        each = images.each if isinstance(images, FrameImages) else 1
        return Subject(images, self.num * each, model, sampling)

    def score(self, samples: Samples, images_seen: int, stop: Stop) -> dict[str, float]:
        """Return the scores by title on the first process; nothing where any is asked to stop.

        Args:
            samples: of a copy of the network as it is now, see `copy_whole`.
            images_seen: by it.
            stop: asked before each call of the network.
        """
        out = self.folder / f"images_{images_seen:010d}.json"
        parts, first = parts_path(out), distributed.rank() == 0
        note = f"no score after {images_seen} images"

        def check(*_: object) -> None:
            if stop():
                distributed.leave_note(note)
                raise _Stopped
            if distributed.is_noted(note):
                raise _Stopped

        with distributed.all_or_none(self.work.device):
            if first:  # what an earlier attempt left, maybe of other weights
                shutil.rmtree(parts, ignore_errors=True)
                out.unlink(missing_ok=True)
        now = series(samples)
        now.model.register_forward_pre_hook(check)
        name = {"name": self.folder.parent.name, "weights": "ema", "images_seen": images_seen}
        try:
            if self.target.images is not None:
                reference = reference_of(self.target, self.detector, parts, self.work)
                with distributed.all_or_none(self.work.device):  # which has computed it
                    reference = distributed.from_first(lambda: reference, self.work.device)
                shutil.rmtree(parts, ignore_errors=True)
                self.target = Target(reference, None, reference.about)
            subject = self._subject(now, name, now.describe())
            card, _ = evaluate(
                subject, self.detector, self.target, self.work, out=out, metrics=self.metrics
            )
        except (_Stopped, InputError) as error:  # one that is done hears of it by an InputError
            if not isinstance(error, _Stopped) and not distributed.is_noted(note):
                raise
            if first:
                shutil.rmtree(parts, ignore_errors=True)
                log.info(f"the score after {images_seen:,} images was not finished and is left out")
            return {}
        return card.scores


def series(samples: Samples) -> Samples:
    """Return samples as `convflow evaluate` draws them: seed 0, float32, a network in its layout.

    The network is changed in place.
    """
    network = samples.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return replace(samples, model=network, seed=0, precision="float32")


def copy_whole(network: Backbone, parallel: Single) -> Backbone:
    """Return a copy of a network for this process alone, also where several share its weights.

    All processes come here; each then holds the weights once more, in float32.
    """
    if not parallel.sharded:
        return copy.deepcopy(network)
    settings = network.settings
    with torch.random.fork_rng(devices=[]):
        whole = build(settings.pop("family"), settings, FAMILIES)
    own = whole.state_dict()
    for name, tensor in network.state_dict().items():
        own[name].copy_(parallel.whole(tensor))
    return whole.to(parallel.device).eval().requires_grad_(False)
