"""Checkpoints are written while training goes on, as they are between two steps."""

import pytest

from convflow.parallel.shards import TensorFile
from convflow.training import checkpoint
from convflow.types import InputError

BACKGROUND = "--checkpoint.background true --checkpoint.every-minutes 0"


def test_a_checkpoint_in_the_background_is_that_of_its_moment(tiny, trainer_of, tmp_path):
    straight = trainer_of(tiny("--checkpoint.every-minutes 0 --images 40"), tmp_path / "straight")
    later = trainer_of(tiny(f"{BACKGROUND} --images 40"), tmp_path / "later")
    for trainer in (straight, later):
        assert trainer.run()
    folders = [checkpoint.folder_of(t.run_folder, 5) for t in (straight, later)]
    for name in checkpoint.FILES:
        one, other = ((folder / name).read_bytes() for folder in folders)
        assert one == other
    kept = checkpoint.list_steps(later.run_folder)
    assert kept[-1] == 5
    assert len(kept) == 3
    for step in kept:
        later.load(checkpoint.folder_of(later.run_folder, step))  # checksums fit
    earlier = checkpoint.folder_of(straight.run_folder, 4)
    straight.load(earlier)
    assert straight.step == 4


def test_a_write_that_fails_in_the_background_ends_the_run(tiny, trainer_of, monkeypatch, tmp_path):
    trainer, write = trainer_of(tiny(BACKGROUND)), TensorFile.write

    def fail(file, folder):
        if "step_000000003" in folder.name and "optimizer" in file.name:
            raise OSError(28, "No space left on device")
        return write(file, folder)

    monkeypatch.setattr(TensorFile, "write", fail)
    with pytest.raises(InputError, match=r"could not write .*000000003: No space left on device"):
        trainer.run()
    run = trainer.run_folder
    assert checkpoint.list_steps(run)[-1] in (1, 2)
    assert list((run / "checkpoints").glob(".writing-*")) == []
