"""What a run measures of itself: the loss of images that it never trains on."""

import itertools
import json
import math

import pytest
import torch

from convflow.data.loader import batches
from convflow.seeds import VALIDATION_KEYS
from convflow.training import checkpoint
from convflow.training.draws import draw_terms
from convflow.types import InputError

HELD = "--monitor.validation 5 --monitor.validation.every 4 --monitor.log-every 2 --images 64"


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("process", ["ddpm", "dfm"])
def test_a_curve_of_its_own_that_two_runs_and_a_resumed_run_share(
    process, tiny, trainer_of, tmp_path, monkeypatch
):
    config = tiny(f"{HELD} --process {process} --sampling.steps 2")
    trainers = [trainer_of(config, tmp_path / name) for name in "abc"]
    assert trainers[0].run()
    assert trainers[1].run()
    monkeypatch.setattr(trainers[2], "agree", lambda stop, *due: trainers[2].step == 5)
    assert trainers[2].run()
    resumed = trainer_of(config, tmp_path / "c")
    resumed.load(checkpoint.folder_of(tmp_path / "c", 5))
    assert resumed.run()
    one, two, three = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in "abc")
    assert one == two == three
    found = lines(tmp_path / "a")
    assert [row["step"] for row in found if "validation_loss" in row] == [4, 8]
    trainer = trainers[0]
    seen = {i for b in itertools.islice(stream_of(trainer), 6) for i in b.indices.tolist()}
    assert seen == {*range(22)} - {*trainer.watch.held.tolist()}


def stream_of(trainer):
    return batches(trainer.images, trainer.order, 0, trainer.config.batch_size)


def test_it_is_the_mean_loss_of_the_images_with_draws_that_stay(tiny, trainer_of):
    trainer = trainer_of(tiny(f"{HELD} --micro-batch 2"))
    trainer.step = 4
    found = trainer.watch.measure(lambda: False)
    assert found == trainer.watch.measure(lambda: False)
    pixels, labels = trainer.images.batch(trainer.watch.held)
    draws, _ = draw_terms(trainer, (5, *trainer.shape), (*VALIDATION_KEYS, 0))
    with torch.no_grad():
        losses, _ = trainer.losses_of(pixels, labels, draws, slice(None))
    assert found["validation_loss"] == pytest.approx(float(losses.mean()), rel=1e-5)
    assert found["validation_loss_ema"] == found["validation_loss"]  # at the first step
    trainer.step = 6
    assert trainer.watch.measure(lambda: False) == {}


def test_a_process_measures_its_rows(tiny, trainer_of, monkeypatch):
    trainer, parts = trainer_of(tiny(f"{HELD} --batch-size 4")), []
    whole = trainer.watch.validate()
    for rank in range(3):
        share = slice(rank, None, 3)
        monkeypatch.setattr(type(trainer), "share", lambda self, share=share: share)
        parts.append(trainer.watch.validate())
    for name, value in whole.items():
        assert math.fsum(part[name] for part in parts) == pytest.approx(value, rel=1e-5)


def test_a_resumed_run_cannot_train_on_images_that_were_held_back(tiny, trainer_of):
    folder = trainer_of(tiny(HELD)).save()
    with pytest.raises(InputError, match="was trained on other images"):
        trainer_of(tiny()).load(folder)
