"""A run with a pace gets the length that fits its time, once, and stays exact."""

import json

from convflow.training import checkpoint, launch
from convflow.training.pace import DUE, Pace

WSD = "--optim.schedule wsd --optim.decay-images 160 --images 320 --optim.warmup-images 16"


class Clock:
    """So many seconds pass with each look."""

    def __init__(self, seconds):
        self.now, self.seconds = 0.0, seconds

    def __call__(self):
        self.now += self.seconds
        return self.now


def test_the_length_is_what_fits_at_the_speed_so_far():
    pace = Pace(100.0, 10**9, ending=10.0, clock=lambda: 40.0)
    pace.first = 0.0, 0
    assert pace.length(400, 8) == 400 + 10 * (100 - 10 - 40) // 8 * 8  # 10 images a second
    assert pace.length(400, 7) == 400 + 500 // 7 * 7
    pace.most = 450
    assert pace.length(400, 8) == 448
    pace.deadline = 1.0
    assert pace.length(400, 8) == 408


def run_of(tiny, run, words, pace=None):
    assert launch.train(tiny(words), run, pace=pace)
    return run


def test_a_slower_machine_shortens_the_run_and_it_ends_like_one_of_that_length(tiny, tmp_path):
    pace = Pace(2.0, 10**9, files={"plan.json": "{}"}, clock=Clock(0.5))
    run = run_of(tiny, tmp_path / "paced", WSD, pace)
    config = json.loads((run / "config.json").read_text())
    images = config["images"]
    assert images != 320
    assert images > DUE * 320
    falls = config["optim"]["decay_images"]
    assert falls <= max(images // 2, images - int(DUE * 320))
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


def test_a_length_that_fits_or_is_given_stays(tiny, tmp_path):
    for name, pace in {
        "given": Pace(2.0, 0, clock=Clock(0.5)),
        "untimed": Pace(None, 10**9, clock=Clock(0.5)),
        "at most": Pace(1e9, 320, clock=Clock(0.5)),
    }.items():
        run = run_of(tiny, tmp_path / name, WSD, pace)
        assert json.loads((run / "config.json").read_text())["images"] == 320
        assert not (run / "changes.jsonl").exists()


def test_a_constant_rate_has_no_fall(tiny, tmp_path):
    words = "--images 320 --optim.schedule constant"
    run = run_of(tiny, tmp_path / "run", words, Pace(3.0, 10**9, clock=Clock(0.5)))
    config = json.loads((run / "config.json").read_text())
    assert config["images"] != 320
    assert config["optim"]["decay_images"] == 0
