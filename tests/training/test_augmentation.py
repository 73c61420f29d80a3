"""Augmentation in a training: settings, what the network is told, going on, several processes."""

import dataclasses

import pytest
import torch

from convflow.models.backbone import Backbone
from convflow.pipeline import Pipeline
from convflow.training.augmentation import Augmentation, describe, fitting_kinds, told
from convflow.training.config import DataConfig
from convflow.training.trainer import Trainer
from convflow.types import InputError
from tests.cases import build
from tests.training.test_trainer import stream_of, weights

EVERY = "--data.augment 1"


@pytest.mark.parametrize(
    ("words", "stored", "message"),
    [
        ({"augment_kinds": ("flip", "hue"), "channels": 1}, False, "grey images can show, got hue"),
        ({"augment_kinds": ("scale",)}, True, "a store of latents can show, got scale; give flip"),
    ],
)
def test_kinds_that_images_cannot_show_are_refused_by_name(words, stored, message):
    with pytest.raises(InputError, match=message):
        fitting_kinds(DataConfig(augment=0.1, **words), stored)


def test_without_names_all_that_fits_happens():
    assert len(fitting_kinds(DataConfig(), False)) == 10
    assert fitting_kinds(DataConfig(channels=1), False)[-1] == "contrast"
    assert fitting_kinds(DataConfig(), True) == ("flip", "quarter", "translation")
    made = Augmentation(build("dico"), DataConfig(augment=0.12), True, 0)
    assert "each of flip, quarter, translation happens" in describe(made)


def test_a_network_without_parts_is_refused():
    class Whole(Backbone):
        @dataclasses.dataclass(frozen=True)
        class Config:
            pass

    with pytest.raises(InputError, match="expected a network that can be told of it"):
        Augmentation(Whole(), DataConfig(augment=0.1), False, 0)


def test_an_objective_that_calls_with_another_batch_is_told_so():
    with pytest.raises(InputError, match="the 2 images of the batch, got 3"):
        told(lambda *_: None, (torch.zeros(2, 4),))(None, None, torch.zeros(3))


def test_every_step_tells_the_network_and_nothing_of_it_is_stored_with_the_network(
    tiny, trainer_of, tmp_path
):
    plain, augmented = trainer_of(tiny()), trainer_of(tiny(EVERY), tmp_path / "augmented")
    assert weights(plain).keys() == weights(augmented).keys()
    assert all(torch.equal(t, weights(augmented)[name]) for name, t in weights(plain).items())
    first = next(stream_of(augmented))
    embedding = augmented.losses.augmentation.embedding
    assert not embedding.weight.any()
    augmented.train_step(*first)  # heads are zero: the first step reaches them alone
    augmented.train_step(*first)
    augmented.train_step(*first)
    assert embedding.weight.any()
    folder = augmented.save()
    pipe = Pipeline.from_pretrained(folder, device="cpu")
    assert pipe.model.state_dict().keys() == plain.model.state_dict().keys()
    assert pipe(num=2, steps=1).pixels.shape == (2, 1, 8, 8)


def test_going_on_is_exact_and_parts_of_a_batch_make_the_same_step(tiny, trainer_of, tmp_path):
    straight = trainer_of(tiny(EVERY), tmp_path / "straight")
    stream = stream_of(straight)
    for _ in range(3):
        straight.train_step(*next(stream))
    resumed = trainer_of(tiny(EVERY), tmp_path / "resumed")
    resumed.load(straight.save())
    parts = trainer_of(tiny(f"{EVERY} --micro-batch 3"), tmp_path / "parts")
    parts.load(straight.saved)
    assert resumed.losses.augmentation.embedding.weight.any()
    again = stream_of(resumed)
    for _ in range(2):
        batch = next(stream)
        metrics = straight.train_step(*batch)
        assert metrics == resumed.train_step(*next(again))
        assert parts.train_step(*batch)["loss"] == pytest.approx(metrics["loss"], rel=1e-5)
    first, second = (dict(t.losses.named_parameters()) for t in (straight, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_processes_share_the_draws_of_a_batch(tiny, trainer_of, monkeypatch):
    trainer = trainer_of(tiny(EVERY))
    shape, labels = (8, 1, 8, 8), torch.zeros(8, dtype=torch.int64)
    whole = trainer._draw(labels, shape)[1]["--data.augment"]
    for rank in range(2):
        monkeypatch.setattr(Trainer, "share", lambda self, rank=rank: slice(rank, None, 2))
        mine = trainer._draw(labels[rank::2], shape)[1]["--data.augment"]
        for part, every in zip(mine, whole, strict=True):
            assert torch.equal(part, every[rank::2])
    monkeypatch.undo()
    trainer.images_seen = 8
    assert not torch.equal(trainer._draw(labels, shape)[1]["--data.augment"].scale, whole.scale)


def test_the_validation_loss_is_that_of_images_as_they_are(tiny, trainer_of, tmp_path):
    words = "--monitor.validation.num 4"
    plain = trainer_of(tiny(words), tmp_path / "plain")
    augmented = trainer_of(tiny(f"{words} {EVERY}"), tmp_path / "augmented")
    assert plain.watch.validate() == augmented.watch.validate()
