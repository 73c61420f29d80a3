"""Compiling Triton's kernels in a process that does not interpret them, without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> str:
    """Output of Python without the interpreter of Triton, every kernel compiled anew."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_ALWAYS_COMPILE"] = "1"
    call = [sys.executable, *arguments]
    done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def compile_all(*options: str) -> list[dict]:
    """Rows of `benchmarks/ops/compiled.py`."""
    out = run("benchmarks/ops/compiled.py", "--quick", *options)
    return [json.loads(line) for line in out.splitlines()]
