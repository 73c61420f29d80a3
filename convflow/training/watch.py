"""What a training measures of itself at some of the steps that are logged: validation and scores.

Both are functions of the settings and the step, so that a resumed run has the same numbers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from convflow import distributed
from convflow.data.latents import Latents
from convflow.models.backbone import Backbone
from convflow.seeds import VALIDATION_KEYS
from convflow.training.draws import draw_encoding, draw_terms
from convflow.training.places import find_paths
from convflow.training.score import Scorer, copy_whole
from convflow.training.validation import hold_back
from convflow.types import Size

if TYPE_CHECKING:
    from convflow.training.stopping import Stop
    from convflow.training.trainer import Trainer


class Watch:
    """Measures what the settings ask for; all processes come to every call.

    Args:
        trainer: that is watched.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, config = trainer, trainer.config
        self.held = hold_back(len(trainer.images), config.monitor.validation.num, config.seed)
        self.scorer: Scorer | None = None
        score = find_paths(config, trainer.run_folder).monitor.score
        if score.reference:
            samples = replace(trainer.previews.samples, codec=trainer.codec)
            self.scorer = Scorer(score, samples, trainer.run_folder, trainer.device)

    def measure(self, stop: Stop) -> dict[str, float]:
        """Return what is due after a step, by name; the first process has all of it."""
        monitor = self.trainer.config.monitor
        found: dict[str, float] = {}
        if self.held.size and self._due(monitor.validation.every):
            found |= self.validate()
        if self.scorer is not None and self._due(monitor.score.every):
            with self.trainer.not_training():
                average = cast(Backbone, self.trainer.ema.model)
                network = copy_whole(average, self.trainer.parallel)
                samples = self.trainer.previews.samples
                samples = replace(samples, model=network, codec=self.trainer.codec)
                if self.trainer.captions is not None:
                    samples = self.trainer.captions.scored(samples)
                found |= self.scorer.score(samples, self.trainer.images_seen, stop)
        return found

    def _due(self, every: int) -> bool:
        """Return whether a step is logged that is the first at or after a multiple of `every`."""
        lines = self.trainer.config.monitor.log_every
        return self.trainer.step % (-(-every // lines) * lines) == 0

    def validate(self) -> dict[str, float]:
        """Return the mean loss of the images held back, of the weights and of their average.

        Every image has its label, or the first of its captions, and noise and times that are the
        same in each call. Objectives with parameters have those of the training in both.
        """
        trainer, size = self.trainer, self.trainer.config.batch_size
        sums = torch.zeros(2, device=trainer.device)
        with distributed.all_or_none(trainer.device, lambda failed: [sums]), trainer.not_training():
            batches = [
                (places[start : start + size], side)
                for places, side in self._held_by_size()
                for start in range(0, len(places), size)
            ]
            for number, (places, side) in enumerate(batches):
                sums += self._sums_of(places, side, (*VALIDATION_KEYS, number))
        raw, average = (sums / len(self.held)).tolist()
        return {"validation_loss": raw, "validation_loss_ema": average}

    def _held_by_size(self) -> list[tuple[np.ndarray, Size]]:
        """Return the images held back, those of a store by the size that it holds them in."""
        images = self.trainer.images
        if not isinstance(images, Latents):
            return [(self.held, images.size)]
        sides = images.sides[self.held]
        return [(self.held[(sides == size).all(1)], size) for size in images.sizes]

    def _sums_of(self, places: np.ndarray, size: Size, key: tuple[int, ...]) -> torch.Tensor:
        """Return the losses of a batch, summed over our rows: of the weights and of the average."""
        trainer, sums = self.trainer, torch.zeros(2, device=self.trainer.device)
        mine = places[trainer.share()]
        shown, images = mine if mine.size else places[:1], trainer.images
        pixels, labels = images.batch(shown, size=size)
        if trainer.captions is not None:  # of several captions the first
            labels = trainer.captions.draw(labels, None)
        shape = (len(places), *trainer.shape_of(pixels))
        draws, _ = draw_terms(trainer, shape, key)
        noise = draw_encoding(trainer, shape, key)
        draws.features = images.features(shown, size=size)
        for rows, blank in trainer.passes(mine.size, len(places)):
            for place, averaged in enumerate((False, True)):
                losses, _ = trainer.losses_of(
                    pixels[rows], labels[rows].to(trainer.device), draws, rows, noise, averaged
                )
                sums[place] += 0.0 if blank else losses.sum()
        return sums
