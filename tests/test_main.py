"""`python -m convflow` is the command."""

from __future__ import annotations

import subprocess
import sys

import convflow


def test_it_runs_as_a_module():
    command = [sys.executable, "-m", "convflow", "--version"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout.split()[-1]) == (0, convflow.__version__)


def test_its_exit_code_is_that_of_the_command():
    command = [sys.executable, "-m", "convflow", "no-such-verb"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "no-such-verb" in answer.stderr
