"""Curves are read as they were logged, summed up, and drawn."""

import json

import numpy as np
import pytest
from PIL import Image

from convflow.training.curves import draw_curves, find_differences, read_curves, summarise
from convflow.types import InputError


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    rows = [
        {"step": s, "images": 8 * s, "loss": 1 / s, "learning_rate": 0.1}
        | (
            {"validation_loss": 2 / s, "validation_loss_ema": 3 / s, "FD-9": 4.0 * s}
            if s % 50 == 0
            else {}
        )
        for s in range(1, 201)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    speed = {"step": 5, "images": 40, "images_per_second": 7.0}
    (folder / "speed.jsonl").write_text(json.dumps(speed))
    (folder / "config.json").write_text('{"optim": {"lr": 0.1}, "seed": 1}')
    return folder


def test_they_are_what_was_logged(run):
    curves = read_curves(run)
    assert curves["loss"].images.tolist() == [8 * s for s in range(1, 201)]
    assert curves["validation_loss"].values.tolist() == [2 / s for s in (50, 100, 150, 200)]
    ends = summarise(curves)
    assert [*ends] == [
        "images", "loss", "validation_loss", "validation_loss_ema", "FD-9", "images_per_second",
    ]  # fmt: skip
    assert ends["loss"] == pytest.approx(np.mean([1 / s for s in range(180, 201)]))
    assert (ends["images"], ends["FD-9"], ends["images_per_second"]) == (1600, 800, 7)


def test_differences_are_named(run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"optim": {"lr": 0.2, "clip": 1.0}, "seed": 1}')
    found = find_differences([run, other])
    assert found == {"optim.lr": [0.1, 0.2], "optim.clip": [None, 1.0]}


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected a run folder with metrics\.jsonl"):
        read_curves(tmp_path)


def test_they_are_drawn(run, tmp_path):
    pytest.importorskip("matplotlib")
    curves = read_curves(run)
    lower = {n: c._replace(values=c.values / 2) for n, c in curves.items() if n != "FD-9"}
    draw_curves({"one": curves, "two": lower}, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        colours = np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)
    for colour in ((31, 119, 180), (255, 127, 14)):  # of the first and the second run
        assert (colours == colour).all(1).any()
