"""A run with a pace gets the length that fits its time, once, and stays exact."""

import json

import pytest

from convflow.training import checkpoint, launch
from convflow.training.pace import Pace

WSD = "--optim.schedule wsd --optim.decay-images 160 --images 320 --optim.warmup-images 16"


class Clock:
    """A second passes with each look."""

    now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def paced(deadline, most=10**9, **more):
    return Pace(deadline, most, clock=Clock(), **more)


def test_the_length_is_what_fits_at_the_speed_so_far():
    pace = Pace(100.0, 10**9, clock=lambda: 40.0)
    pace.first = 0.0, 0
    assert pace.length(400, 8, 10.0) == 400 + 490 // 8 * 8  # 10 images a second, 50 seconds
    assert pace.length(400, 7, 10.0) == 400 + 490 // 7 * 7
    pace.most = 450
    assert pace.length(400, 8, 10.0) == 448
    pace.deadline = 1.0
    assert pace.length(400, 8, 10.0) == 408


def test_it_is_due_by_images_or_by_time():
    pace = Pace(100.0, 10**9, clock=lambda: 30.0)
    pace.first = 10.0, 0
    assert [pace.is_due(seen, 1000) for seen in (100, 449, 450)] == [False, False, True]
    pace.clock = lambda: 51.0
    assert pace.is_due(100, 1000)


def test_the_speed_of_a_resumed_run_is_not_that_of_one_step():
    pace = Pace(100.0, 10**9, clock=lambda: 11.0)
    for before in (440, 449):
        pace.first = 10.0, before
        due = [seen for seen in range(before, 500) if pace.is_due(seen, 1000)]
        assert before + 30 <= due[0] < 500


def run_of(tiny, run, words, pace=None):
    assert launch.train(tiny(words), run, pace=pace)
    return run


@pytest.mark.parametrize(
    "deadline", [20, *(pytest.param(d, marks=pytest.mark.slow) for d in (30, 60))]
)
def test_a_run_of_another_length_ends_like_one_that_always_had_it(deadline, tiny, tmp_path):
    """The clock ticks with each step of 8 images, so that a deadline is a number of steps."""
    run = run_of(tiny, tmp_path / "paced", WSD, paced(deadline, files={"plan.json": "{}"}))
    config = json.loads((run / "config.json").read_text())
    images, falls = config["images"], config["optim"]["decay_images"]
    assert images == pytest.approx(8 * deadline, abs=48)
    assert (images < 320) == (deadline < 40)
    assert 0.4 * images < falls <= images / 2
    assert (run / "plan.json").read_text() == "{}"
    keys = [json.loads(line)["key"] for line in (run / "changes.jsonl").read_text().splitlines()]
    assert keys == ["images", "optim.decay_images"]
    words = f"{WSD} --images {images} --optim.decay-images {falls}"
    other = run_of(tiny, tmp_path / "straight", words)
    (step,) = {checkpoint.list_steps(each)[-1] for each in (run, other)}
    for name in ("raw/model.safetensors", "ema/model.safetensors", "optimizer.safetensors"):
        one, two = (checkpoint.folder_of(each, step) / name for each in (run, other))
        assert one.read_bytes() == two.read_bytes()
    assert run_of(tiny, run, words) == run  # the run is found done


@pytest.mark.slow
def test_a_length_that_fits_or_is_given_stays(tiny, tmp_path):
    paces = {"given": paced(9, 0), "untimed": paced(None), "at most": paced(1e9, 320)}
    for name, pace in paces.items():
        run = run_of(tiny, tmp_path / name, WSD, pace)
        assert json.loads((run / "config.json").read_text())["images"] == 320
        assert not (run / "changes.jsonl").exists()


def test_a_constant_rate_has_no_fall(tiny, tmp_path):
    words = "--images 320 --optim.schedule constant"
    run = run_of(tiny, tmp_path / "run", words, paced(20))
    config = json.loads((run / "config.json").read_text())
    assert config["images"] < 320
    assert config["optim"]["decay_images"] == 0
