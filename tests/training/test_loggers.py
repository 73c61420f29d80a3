"""Where metrics go: the same bytes after any number of resumes, curves, a logger of a user."""

import io
import json

import pytest

from convflow.training.config import MonitorConfig
from convflow.training.loggers import lines_up_to
from convflow.training.monitor import Monitor

METRICS = {"loss": 0.5, "gradient_norm": 1.0, "learning_rate": 1e-3}
QUIET = MonitorConfig(log_every=2, tensorboard=False)


@pytest.mark.parametrize("tail", ["", '{"step": 6, "im', "\x00\x00\x00\n", "[1]\n", '{"step": 5}'])
def test_going_on_drops_what_came_after_the_checkpoint(tmp_path, tail):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step}) + "\n" for step in (2, 4, 6)]
    path.write_text("".join(lines) + tail)
    Monitor(tmp_path, QUIET, 4, 16, 100).close()
    assert path.read_text() == "".join(lines[:2])
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


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
