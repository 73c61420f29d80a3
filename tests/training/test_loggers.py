"""Where metrics go: the same bytes after any number of resumes, curves, a logger of a user."""

import io
import json
import sys
import time

import pytest

from convflow.training.config import MonitorConfig
from convflow.training.loggers import find_loggers, lines_up_to
from convflow.training.monitor import Monitor
from convflow.types import InputError

METRICS = {"loss": 0.5, "gradient_norm": 1.0, "learning_rate": 1e-3}
QUIET = MonitorConfig(log_every=2, tensorboard=False)


@pytest.mark.parametrize("tail", ["", '{"step": 6, "im', "\x00\x00\x00\n", "[1]\n", '{"step": 5}'])
def test_going_on_drops_what_came_after_the_checkpoint(tmp_path, tail):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step}) + "\n" for step in (2, 4, 6)]
    path.write_text("".join(lines) + tail)
    Monitor(tmp_path, QUIET, 4, 16, 100).close()
    assert path.read_text() == "".join(lines[:2])
    assert {p.name for p in tmp_path.iterdir()} == {"metrics.jsonl", "speed.jsonl"}


def test_a_spoilt_line_takes_no_other_with_it(tmp_path):
    path = tmp_path / "changes.jsonl"
    lines = [json.dumps({"step": step}) for step in (2, 4, 6, 8)]
    path.write_bytes("\n".join([lines[0], "spoilt", *lines[1:3], lines[3]]).encode() + b"\n\xff")
    assert lines_up_to(path, 6) == [f"{line}\n" for line in lines[:3]]
    path.write_text("\n".join(lines))  # some editors end no last line
    assert lines_up_to(path, 8) == [f"{line}\n" for line in lines]
    assert lines_up_to(tmp_path / "none", 8) == []


@pytest.fixture
def on_windows(monkeypatch):
    """Text files are written with CR LF there, unless the code says which line ends it wants."""
    real = io.open

    def windows_open(
        file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, **more
    ):
        if newline is None and "b" not in mode and "r" not in mode:
            newline = "\r\n"
        return real(file, mode, buffering, encoding, errors, newline, **more)

    monkeypatch.setattr(io, "open", windows_open)


def test_windows_has_the_same_bytes_after_any_number_of_resumes(tmp_path, on_windows):
    (tmp_path / "other").write_text("\n")
    assert (tmp_path / "other").read_bytes() == b"\r\n", "the fixture does what Windows does"
    for step in range(4):
        monitor = Monitor(tmp_path, MonitorConfig(log_every=1, tensorboard=False), step, 0, 100)
        monitor.step(step + 1, 0, METRICS)
        monitor.close()
    content = (tmp_path / "metrics.jsonl").read_bytes()
    lines = [{"step": step, "images": 0} | METRICS for step in range(1, 5)]
    assert content == "".join(json.dumps(line) + "\n" for line in lines).encode()


@pytest.mark.parametrize("end", ["\r\n", "\r\r\n"])
def test_lines_that_an_earlier_version_wrote_on_windows_are_kept(tmp_path, end):
    path = tmp_path / "metrics.jsonl"
    before = "".join(json.dumps({"step": step}) + end for step in (1, 2)).encode()
    path.write_bytes(before)
    Monitor(tmp_path, QUIET, 2, 8, 100).close()
    assert path.read_bytes() == before


def test_curves_for_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    monitor = Monitor(tmp_path, MonitorConfig(log_every=1), 0, 0, 100)
    monitor.step(1, 4, METRICS)
    monitor.close()
    assert list((tmp_path / "tensorboard").glob("events.*"))


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Return a function from loggers to the monitor of a run, which sends nothing anywhere."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"seed": 7}')

    def monitor(names, step=0):
        config = MonitorConfig(log_every=1, tensorboard=False, logger=names)
        return Monitor(run, config, step, 4 * step, 100)

    return monitor


def holds(folder, pattern, words):
    """Return whether files hold words within a minute: services write behind our back."""
    for _ in range(120):
        stored = b"".join(path.read_bytes() for path in folder.rglob(pattern))
        if all(word.encode() in stored for word in words):
            return True
        time.sleep(0.5)
    return False


NUMBERS = [*METRICS, "images_per_second", "seconds_left"]


@pytest.mark.slow
def test_wandb_gets_all_numbers_offline_and_goes_on_with_its_run(watched, tmp_path):
    pytest.importorskip("wandb")
    for step in (0, 2):
        monitor = watched("wandb", step)
        monitor.step(step + 1, 4 * step + 4, METRICS)
        monitor.close()
        time.sleep(1.1)  # folders are named by the second
    folders = sorted((tmp_path / "run/wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert len({folder.name.rpartition("-")[2] for folder in folders}) == 1
    for folder in folders:
        assert holds(folder, "*.wandb", [*NUMBERS, "seed"])


@pytest.mark.slow
def test_trackio_gets_all_numbers_and_goes_on_with_its_run(watched, tmp_path, capsys):
    pytest.importorskip("trackio")
    for step in (0, 2):
        monitor = watched("trackio", step)
        monitor.step(step + 1, 4 * step + 4, METRICS)
        monitor.close()
    said = capsys.readouterr().out
    assert said.count("Created new run: run") == said.count("Resumed existing run: run") == 1
    if str(tmp_path) in said:  # a process reads TRACKIO_DIR once
        assert holds(tmp_path / "trackio", "*.db*", [*NUMBERS, "seed"])


def test_a_logger_without_its_package_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        InputError, match=r"for the logger wandb, got none; pip install convflow\[wandb"
    ):
        find_loggers(MonitorConfig(logger="wandb"))
    with pytest.raises(InputError, match="unknown logger 'tensorbord'"):
        find_loggers(MonitorConfig(logger="tensorbord"))
