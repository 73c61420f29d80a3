"""Draws of a key: the same for a key, and for each process its rows of them."""

import torch

from convflow.seeds import generator_of
from convflow.training.draws import draw_encoding, draw_labels, draw_terms


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
