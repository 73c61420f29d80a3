"""What a run shows: when, and only what the settings determine."""

import json
import logging
import re

import pytest

from convflow.training import launch
from convflow.training.config import MonitorConfig
from convflow.training.monitor import DataWait, IntervalTimer, Monitor

METRICS = {"loss": 0.5, "gradient_norm": 1.0, "learning_rate": 1e-3}
QUIET = MonitorConfig(log_every=2, tensorboard=False)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_gaps_double_up_to_the_longest():
    clock = Clock()
    schedule = IntervalTimer(10, 35, clock)
    due = []
    for _ in range(200):
        if schedule.due():
            due.append(clock.now - 100)
        clock.now += 1
    assert due == [10, 30, 65, 100, 135, 170]


def test_after_a_long_wait_it_is_due_once():
    clock = Clock()
    schedule = IntervalTimer(10, 10, clock)
    clock.now += 500
    assert schedule.due()
    assert not schedule.due()
    clock.now += 10
    assert schedule.due()


def test_a_gap_of_zero_is_always_due():
    schedule = IntervalTimer(0, 0, Clock())
    assert [schedule.due() for _ in range(3)] == [True] * 3


def test_every_nth_step_is_a_line_on_disk_at_once(tmp_path):
    monitor = Monitor(tmp_path, QUIET, 0, 0, 100)
    for step in range(1, 6):
        monitor.step(step, 4 * step, METRICS)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 2, "images": 8} | METRICS,
        {"step": 4, "images": 16} | METRICS,
    ]
    monitor.close()


def test_a_longer_run_is_told_to_all_who_show_its_end(tmp_path):
    monitor = Monitor(tmp_path, QUIET, 0, 0, 100)
    monitor.lengthen(500)
    assert (monitor.images, monitor.bar.total) == (500, 500)
    monitor.close()


def test_a_training_that_waits_for_images_says_what_to_do(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "convflow")
    clock = Clock()
    wait = DataWait(clock)
    monitor = Monitor(tmp_path, QUIET, 0, 0, 1000, None, None, wait, "buy a disk")
    monitor.spoken, monitor.advised = IntervalTimer(10, 10, clock), IntervalTimer(0, 0, clock)
    for step in range(1, 24):
        with wait:
            clock.now += 100 if step == 1 else 0.03 if step < 12 else 0.2
        clock.now += 0.97 if step < 12 else 0.8
        monitor.step(step, 4 * step, METRICS)
    monitor.close()
    said = [line for line in caplog.messages if "images/s" in line]
    waits = [re.search(r"(\d+)% of the time waiting for images", line)[1] for line in said]
    assert waits == ["0", "3", "20"]
    advice = [line for line in caplog.messages if "buy a disk" in line]
    assert advice == ["the training waits for images 20% of its time; buy a disk"]


def test_the_speed_of_each_line_is_beside_the_metrics(tmp_path):
    monitor = Monitor(tmp_path, QUIET, 0, 0, 100)
    for step in range(1, 5):
        monitor.step(step, 4 * step, METRICS)
    monitor.close()
    rows = list(map(json.loads, (tmp_path / "speed.jsonl").read_text().splitlines()))
    assert [(row["step"], row["images"]) for row in rows] == [(2, 8), (4, 16)]
    assert all(row["images_per_second"] > 0 and row["seconds_left"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("before", "now", "steps"), [(3, 4, [3, 6, 8]), (4, 4, [4, 8]), (4, 3, [4, 6, 9])]
)
def test_a_longer_run_forgets_the_line_of_an_end_alone(before, now, steps, tiny, tmp_path):
    words = "--device cpu --monitor.log-every"
    assert launch.train(tiny(f"{words} {before} --images 48"), tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 6
    assert launch.train(tiny(f"{words} {now} --images 72"), tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [*steps, *([9] * (9 not in steps))]
