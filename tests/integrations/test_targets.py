"""The table of targets: every writer is there, and the help costs no torch."""

import subprocess
import sys

import pytest

from convflow.cli.main import main
from convflow.integrations.targets import EXPORT_TARGETS


@pytest.mark.parametrize("name", EXPORT_TARGETS)
def test_a_writer_can_be_loaded(name):
    assert callable(EXPORT_TARGETS[name].load())


def test_the_help_tells_every_target(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    said = capsys.readouterr().out
    assert all(f"  {name:12} {target.about}" in said for name, target in EXPORT_TARGETS.items())


def test_the_table_needs_no_torch():
    code = "import sys, convflow.integrations.targets; print({'torch', 'numpy'} & {*sys.modules})"
    words = [sys.executable, "-c", code]
    assert subprocess.run(words, capture_output=True, text=True).stdout.strip() == "set()"
