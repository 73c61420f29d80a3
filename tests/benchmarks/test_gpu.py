"""The list for a GPU fits into its time, and says at once where there is none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu.sh"


def test_all_steps_together_may_take_eight_minutes():
    limits = re.findall(r"^(?:step|on_gpu) (\d+) (\w+) ", SCRIPT.read_text(), re.M)
    assert len(limits) == 6
    assert sum(int(limit) for limit, _ in limits) <= 480


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would begin")
def test_without_a_gpu_it_stops_with_one_line():
    environment = os.environ | {"PYTHON": sys.executable}
    found = subprocess.run(["sh", SCRIPT], capture_output=True, text=True, env=environment)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "expected a GPU that torch can use, found none; try --quick\n"
