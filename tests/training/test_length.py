"""Epochs as images, and the words at the end."""

import json

import pytest

from convflow.training import checkpoint, launch
from convflow.training.length import count_images
from convflow.types import InputError


@pytest.mark.parametrize(
    ("epochs", "num_images", "images", "line"),
    [
        (3, 1797, 5391, "3 epochs of 1,797 images: 5,391 images"),
        (1, 22, 22, "1 epoch of 22 images: 22 images"),
        (0.5, 23, 12, "0.5 epochs of 23 images: 12 images"),
        (1e-9, 23, 1, "1e-09 epochs of 23 images: 1 images"),
    ],
)
def test_epochs_are_images(epochs, num_images, images, line):
    assert count_images(epochs, num_images) == (images, line)


def test_epochs_without_end_are_refused():
    with pytest.raises(InputError, match="--epochs: expected at most"):
        count_images(1e300, 22)


def test_epochs_are_stored_as_images_and_are_of_the_whole_run(tiny, tmp_path, caplog):
    run, straight = tmp_path / "run", tmp_path / "straight"
    with caplog.at_level("INFO", "convflow"):
        assert launch.train(tiny(), run, epochs=1.5)
        assert "1.5 epochs of 22 images: 33 images" in caplog.text
        assert launch.read_run_config(run).images == 33
        assert launch.train(tiny(), run, epochs=1.5)
        assert "already finished at 40 images" in caplog.text
        with pytest.raises(InputError, match="--epochs: expected at least the 40 images"):
            launch.train(tiny(), run, epochs=1)
    assert launch.train(tiny(), run, epochs=3)
    assert launch.train(tiny("--images 66"), straight)
    assert (run / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()


def test_a_run_shorter_than_its_lines_has_one_that_a_longer_run_forgets(tiny, tmp_path):
    run, straight = tmp_path / "run", tmp_path / "straight"

    def lines(folder, name="metrics.jsonl"):
        return [json.loads(line)["step"] for line in (folder / name).read_text().splitlines()]

    def config(images):
        return tiny(f"--monitor.log-every 7 --images {images}")

    assert launch.train(config(40), run)
    assert lines(run) == lines(run, "speed.jsonl") == [5]
    before = (run / "metrics.jsonl").read_bytes()
    assert launch.train(config(40), run)
    assert (run / "metrics.jsonl").read_bytes() == before
    assert launch.train(config(80), run)
    assert lines(run) == lines(run, "speed.jsonl") == [7, 10]
    assert launch.train(config(80), straight)
    assert (run / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()


def test_the_end_says_what_ended_it_and_how_to_go_on(tiny, tmp_path, caplog):
    run = tmp_path / "a run"
    again = f"saved; go on with: convflow train --resume '{run}'"
    with caplog.at_level("INFO", "convflow"):
        assert launch.train(tiny("--optim.schedule linear"), run, minutes=1e-9)
        assert f"time is over at 0 of 160 images; {again}" in caplog.text
        assert "the learning rate has not fallen to zero yet" in caplog.text
        assert checkpoint.list_steps(run) == [0]
        caplog.clear()
        assert launch.train(tiny("--optim.schedule linear"), run, minutes=60)
        assert "all 160 images are seen after " in caplog.text
        assert f"done; try: convflow sample '{run}'" in caplog.text
        assert "time is over" not in caplog.text
