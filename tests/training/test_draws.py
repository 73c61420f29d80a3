"""Draws of a key: the same for a key, and for each process its rows of them."""

import torch

from convflow.training.draws import draw_encoding, draw_terms


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
