"""What is random in a training: a function of the seed and a key, drawn for whole batches.

So it does not depend on the number of processes. Each of them takes its rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from convflow.conditions.labels import take
from convflow.seeds import generator_of
from convflow.training.augmentation import DRAWS

if TYPE_CHECKING:
    from convflow.training.trainer import Trainer

NOISE_KEY, DROPOUT_KEY, CAPTION_KEY = 1_000_000, 1_000_001, 1_000_002
"""Of the labels' noise, of dropout and of captions, beyond the places of objectives."""
SEEDS = "--dropout"
"""The key of the seeds of dropout among the draws of a step; no objective has this name."""


class Draws(dict[str, Any]):
    """What each objective has drawn for our rows, by name.

    Attributes:
        total: images in the batch of all processes.
        features: (B, h, w, E) that a store has of our images; None where it is not asked.
    """

    total: int = 0
    features: Tensor | None = None

    def rows(self, rows: slice) -> Draws:
        """Return the draws of some of our images."""
        some = Draws({name: take(drawn, rows) for name, drawn in self.items()})
        some.total = self.total
        some.features = None if self.features is None else self.features[rows]
        return some


def draw_terms(
    trainer: Trainer, shape: tuple[int, ...], key: tuple[int, ...]
) -> tuple[Draws, torch.Generator]:
    """Return the draws of each objective for our rows, and the generator of the first.

    Args:
        trainer: with its objectives; each but the first has a generator of its own.
        shape: (B, C, H, W) of the whole batch in model space.
        key: of the draws, beside the seed.
    """
    key, mine, draws = (trainer.config.seed, *key), trainer.own_rows(shape[0]), Draws()
    draws.total = shape[0]
    generator = generator_of(*key, device=trainer.device)
    for place, (name, objective) in enumerate(trainer.losses.objectives.items()):
        own = generator_of(*key, 1 + place, device=trainer.device) if place else generator
        draws[name] = take(objective.draw(shape, own), mine)  # type: ignore[operator]
    return draws, generator


def draw_changes(trainer: Trainer, total: int, key: tuple[int, ...]) -> dict[str, Any]:
    """Return what happens to our images of a batch, and the seeds of their dropout.

    Args:
        trainer: with augmentation or dropout, or without.
        total: images of the whole batch.
        key: of the draws, beside the seed; each has a generator of its own.
    """
    found, config, mine = dict[str, Any](), trainer.config, trainer.own_rows(total)
    if trainer.losses.augmentation is not None:
        strengths = trainer.losses.augmentation.draw(total, trainer.images_seen)
        found[DRAWS] = take(strengths, mine)
    if config.dropout:
        own = generator_of(config.seed, *key, DROPOUT_KEY, device=trainer.device)
        seeds = torch.randint(2**31, (total,), generator=own, device=trainer.device)
        found[SEEDS] = seeds[mine]
    return found


def draw_labels(
    trainer: Trainer,
    labels: Tensor,
    total: int,
    key: tuple[int, ...],
    generator: torch.Generator,
) -> Tensor:
    """Return our labels of a batch, some of them another class, and some of them dropped.

    Where there are captions they are the numbers of these.

    Args:
        trainer: with the shares of both.
        labels: of our rows; places of images where there are captions.
        total: images of the whole batch.
        key: of the draws, beside the seed; noise has a generator of its own.
        generator: of what is dropped.
    """
    config, device, mine = trainer.config, trainer.device, trainer.own_rows(total)
    labels, conditions = labels.to(device), trainer.model.conditions
    if (captions := trainer.captions) is not None:  # numbers stand for them up to the network
        own = generator_of(config.seed, *key, CAPTION_KEY, device=device)
        shares = torch.rand(total, generator=own, device=device) if captions.several else None
        labels = captions.draw(labels, None if shares is None else shares[mine])
        conditions = captions.labels
    if config.label_noise and (classes := trainer.model.num_classes):
        own = generator_of(config.seed, *key, NOISE_KEY, device=device)
        noisy = torch.rand(total, generator=own, device=device) < config.label_noise
        others = torch.randint(classes, (total,), generator=own, device=device)
        labels = torch.where(noisy[mine], others[mine], labels)
    dropped = torch.rand(total, generator=generator, device=device) < config.label_dropout
    return conditions.drop(labels, dropped[mine])


def draw_encoding(trainer: Trainer, shape: tuple[int, ...], key: tuple[int, ...]) -> Tensor | None:
    """Return the codec's noise for our rows, None where it needs none; as `draw_terms`."""
    generator = generator_of(trainer.config.seed, *key, 1, device=trainer.device)
    noise = trainer.codec.draw(shape, generator)
    return None if noise is None else noise[trainer.own_rows(shape[0])]
