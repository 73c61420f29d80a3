"""Draws of a key: the same for a key, and for each process its rows of them."""

import itertools

import pytest
import torch

from convflow.data.loader import batches
from convflow.seeds import generator_of
from convflow.training import checkpoint, launch
from convflow.training.draws import SEEDS, draw_changes, draw_encoding, draw_labels, draw_terms


def test_a_key_decides_and_each_process_has_its_rows(tiny, trainer_of, monkeypatch):
    trainer = trainer_of(tiny())
    shape = (8, *trainer.shape)
    whole, again, other = (
        draw_terms(trainer, shape, key)[0]["process"] for key in [(1,), (1,), (2,)]
    )
    assert torch.equal(whole.noise, again.noise)
    assert not torch.equal(whole.noise, other.noise)
    monkeypatch.setattr(type(trainer), "share", lambda self: slice(1, None, 3))
    mine = draw_terms(trainer, shape, (1,))[0]["process"]
    assert torch.equal(mine.noise, whole.noise[1::3])
    assert torch.equal(mine.t, whole.t[1::3])
    assert draw_encoding(trainer, shape, (1,)) is None  # pixels need none


def test_labels_are_disturbed_then_dropped_and_each_process_has_its_rows(
    tiny, trainer_of, monkeypatch, tmp_path
):
    def drawn(words, count=3000):
        trainer = trainer_of(tiny(words), tmp_path / words[-4:])
        labels = torch.zeros(count, dtype=torch.int64)[trainer.own_rows(count)]
        return draw_labels(trainer, labels, count, (1,), generator_of(0))

    usual = drawn("--label-dropout 0.25")
    both = drawn("--label-dropout 0.25 --label-noise 0.4")
    assert set(usual.tolist()) == {0, 2}
    assert (usual == 2).equal(both == 2)  # noise changes nothing else that is drawn
    kept = both[both != 2].float()  # half of the noise draws the class that was there
    assert abs(kept.mean() - 0.2) < 4 * (0.2 * 0.8 / len(kept)) ** 0.5
    monkeypatch.setattr("convflow.training.trainer.Trainer.share", lambda self: slice(1, None, 3))
    assert drawn("--label-dropout 0.25 --label-noise 0.4").equal(both[1::3])


def test_dropout_is_that_of_the_images_whatever_the_parts_of_a_batch(
    tiny, trainer_of, tmp_path, monkeypatch
):
    fast = "--optim.lr 1e-3 --optim.warmup-images 0"
    whole, parts = (
        trainer_of(tiny(f"{fast} --dropout 0.3 --micro-batch {size}"), tmp_path / size)
        for size in ("none", "3")
    )
    plain = trainer_of(tiny(f"{fast} --micro-batch none"), tmp_path / "plain")
    stream = batches(whole.images, whole.order, 0, 8)
    for batch in itertools.islice(stream, 6):
        first, second, third = (t.train_step(*batch) for t in (whole, parts, plain))
        assert first == pytest.approx(second, rel=1e-3)
    assert third["loss"] != first["loss"]
    seeds = draw_changes(whole, 8, (1,))[SEEDS]
    assert draw_changes(whole, 8, (1,))[SEEDS].equal(seeds)
    assert not draw_changes(whole, 8, (2,))[SEEDS].equal(seeds)
    assert draw_changes(plain, 8, (1,)) == {}
    monkeypatch.setattr(type(whole), "share", lambda self: slice(1, None, 3))
    assert draw_changes(whole, 8, (1,))[SEEDS].equal(seeds[1::3])


@pytest.mark.parametrize("process", ["flow", "meanflow", "dfm"])
def test_a_resumed_run_drops_the_same(tiny, tmp_path, process):
    words = f"--dropout 0.3 --process {process} --monitor.validation 5 --device cpu"
    words += " --sampling.steps 2"  # one for each scale of dfm
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    assert launch.train(tiny(f"{words} --images 64"), straight)
    assert launch.train(tiny(f"{words} --images 24"), parts)
    assert launch.train(tiny(f"{words} --images 64"), parts)
    for name in ("raw/model.safetensors", "ema/model.safetensors", "optimizer.safetensors"):
        one, other = (checkpoint.folder_of(run, 8) / name for run in (straight, parts))
        assert one.read_bytes() == other.read_bytes()
    lines = [(run / "metrics.jsonl").read_bytes() for run in (straight, parts)]
    assert lines[0] == lines[1]
