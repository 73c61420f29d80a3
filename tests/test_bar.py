"""What a progress bar says of time."""

import io
import os
import time

import pytest

from convflow.bar import Bar


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "[2 h 5 min, 9 days 11 h left, "),
        ({"until": 130}, "[2 h 5 min, 2 min 10 s left, "),
        ({"until": -1}, "[2 h 5 min, 0.0 s left, "),
    ],
)
def test_times_are_said_as_people_say_them(monkeypatch, options, said):
    clock = [time.time()]
    if options:
        options = {"until": time.monotonic() + options["until"] + 0.5}
    bar = Bar(total=1000, initial=0, unit="img", file=io.StringIO(), **options)
    bar._time, bar.start_t, bar.n = lambda: clock[0], clock[0], 1000 * 7500 / (819498 + 7500)
    clock[0] += 7500
    assert said in str(bar)
    bar.n = 0
    bar.until = float("inf")
    assert "? left" in str(bar)
    bar.close()


def test_a_console_without_blocks_gets_signs_that_it_has():
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    with Bar(total=4, unit="img", file=console, mininterval=0) as bar:
        bar.update(3)
        bar.refresh()
    console.flush()
    assert "75%|#" in console.buffer.getvalue().decode("cp1252")


def test_a_terminal_without_a_window_shows_it_too():
    pty = pytest.importorskip("pty")
    far, near = pty.openpty()  # of 0 columns
    with os.fdopen(near, "w") as terminal, Bar(total=4, unit="img", file=terminal) as bar:
        bar.update(3)
        bar.refresh()
        said = b""
        while b"75%|" not in said:
            said += os.read(far, 4096)
    os.close(far)
