"""Names with control characters, and consoles that lack a character."""

import io
import logging
import sys
from pathlib import Path

import pytest

from convflow.cli import main as cli
from convflow.cli import sample
from convflow.cli.output import PlainFormatter, check_target, is_for_users, plain, say
from convflow.types import InputError

NAME = "a\x1b[2J\x1b]0;t\x07\r\nerror: forged\x9b31m\x7f\u202eb"
SHOWN = r"a\x1b[2J\x1b]0;t\x07\r\nerror: forged\x9b31m\x7f\u202eb"


def test_one_line_without_control_characters(capsys):
    assert plain(NAME) == SHOWN
    assert plain("é 猫 -> ü") == "é 猫 -> ü"
    say("first", f"  {NAME}")
    assert capsys.readouterr().out == f"first\n  {SHOWN}\n"


def test_a_log_line_keeps_its_traceback():
    record = logging.LogRecord("convflow", logging.INFO, "", 1, NAME, None, None)
    record.exc_text = "Traceback\n  x"
    assert PlainFormatter("%(message)s").format(record) == f"{SHOWN}\nTraceback\n  x"


@pytest.mark.parametrize(
    ("name", "level", "shown"),
    [
        ("/env/huggingface_hub/serialization/_torch.py", logging.INFO, False),
        ("/env/huggingface_hub/serialization/_torch.py", logging.ERROR, True),
        ("convflow", logging.INFO, True),
    ],
)
def test_drafts_are_not_talked_about(name, level, shown):
    assert is_for_users(logging.LogRecord(name, level, "", 1, "saved", None, None)) is shown


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a folder that nobody can write to")
@pytest.mark.parametrize(("out", "single"), [("/proc/new/x.png", False), ("/proc/new", True)])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(out, single):
    with pytest.raises(
        InputError, match="--out: expected a folder that can be written to, got /proc"
    ):
        check_target(Path(out), single)


def test_an_error_is_one_line(monkeypatch, capsys):
    def fail(words):
        raise InputError(f"expected a folder, got {NAME}")

    monkeypatch.setattr(sample, "main", fail)
    assert cli.main(["sample", "x"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert not set(err) & set("\x1b\x07\r\x9b\x7f\u202e")


def test_the_folder_that_info_shows(tmp_path, capsys):
    run = tmp_path / NAME.replace("/", "")
    run.mkdir()
    assert cli.main(["info", str(run)]) == 2
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("encoding", "written"),
    [("cp1252", b"\xe9 \\u732b \\udcff\n"), ("utf-8", b"\xc3\xa9 \xe7\x8c\xab \\udcff\n")],
)
def test_a_console_that_lacks_a_character(monkeypatch, encoding, written):
    console = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")

    def speak(words):
        say("é 猫 \udcff")  # the last from a file name that is no text
        return 0

    monkeypatch.setattr(sys, "stdout", console)
    monkeypatch.setattr(sample, "main", speak)
    assert cli.main(["sample", "x"]) == 0
    assert console.buffer.getvalue() == written
