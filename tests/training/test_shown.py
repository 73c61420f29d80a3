"""The images of a training read again: from a run, a checkpoint in it, or a model folder."""

import pytest
import torch

from convflow.codecs import PixelCodec
from convflow.training.launch import train
from convflow.training.shown import find_run, open_shown
from convflow.types import InputError

CPU = torch.device("cpu")


def test_those_shown_and_those_held_back_are_those_of_the_run(tiny, data, tmp_path):
    run = tmp_path / "run"
    config = tiny("--images 8 --monitor.validation.num 4 --sampling.steps 1")
    train(config, run)
    folder = next((run / "checkpoints").glob("step_*"))
    for model in (run, folder, folder / "ema"):
        assert find_run(model) == run
        found = open_shown(model, None, PixelCodec(), 1, (8, 8), CPU)
        assert (len(found.shown), len(found.held)) == (18, 4)
        assert {*found.shown.tolist(), *found.held.tolist()} == {*range(22)}
        assert found.read([0, 21]).shape == (2, 1, 8, 8)
        assert found.name(0).endswith(".png")
        assert not found.images._kept  # each is read once
    given = open_shown(run, str(data), PixelCodec(), 1, (4, 6), CPU)
    assert (len(given.shown), len(given.held)) == (22, 0)
    assert given.read([3]).shape == (1, 1, 4, 6)
    elsewhere = tmp_path / "model"
    (folder / "ema").rename(elsewhere)
    assert find_run(elsewhere) is None
    assert len(open_shown(elsewhere, str(data), PixelCodec(), 1, (8, 8), CPU).shown) == 22
    with pytest.raises(InputError, match="--data: expected the training images of"):
        open_shown(elsewhere, None, PixelCodec(), 1, (8, 8), CPU)
