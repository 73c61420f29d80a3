"""The list for a GPU fits into its time, says what is missing, and stops at a wrong kernel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SCRIPT = Path("benchmarks/gpu.sh")
ON_CPU = pytest.mark.skipif(torch.cuda.is_available(), reason="it would begin")


def run(*words: object, root: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script in a checkout, with this Python."""
    more = {"PYTHON": sys.executable, "PYTHONPATH": ""} | environment
    call = ["sh", root / SCRIPT, *map(str, words)]
    return subprocess.run(call, capture_output=True, text=True, env=os.environ | more, check=False)


def test_all_steps_together_may_take_nine_minutes():
    steps = re.findall(r"\bstep (\d+) (\w+) ", (ROOT / SCRIPT).read_text())
    assert len(steps) == 9
    # The sanitizer runs only where the truth fails, and then nothing else does.
    assert sum(int(limit) for limit, name in steps if name != "sanitizer") <= 540


@ON_CPU
def test_without_a_gpu_it_stops_with_one_line(tmp_path: Path):
    found = run(tmp_path, "truth")
    assert found.returncode == 2
    assert found.stderr == "expected a GPU that torch can use, found none; try DRY=1\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("truth",), "expected the folder for the results before the parts"),
        (("out", "spped"), "expected truth, kernels, speed, networks, training or sampling"),
    ],
)
def test_wrong_words_are_one_line(words: tuple[str, ...], message: str):
    found = run(*words)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith(message)


def test_a_missing_package_is_said_before_anything_starts(tmp_path: Path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'msgspec' else find(name, *a)\n"
    )
    found = run(tmp_path / "out", "truth", DRY="1", PYTHONPATH=str(tmp_path))
    assert found.returncode == 2
    assert "expected the packages msgspec, got none" in found.stderr
    assert not (tmp_path / "out/steps.txt").exists()


def test_what_was_done_is_not_done_again(tmp_path: Path):
    (tmp_path / "steps.txt").write_text("truth 0 50\n")
    found = run(tmp_path, "truth", DRY="1")
    assert found.returncode == 0, found.stderr
    assert "== truth: done before" in found.stdout


@pytest.mark.slow
@ON_CPU
def test_a_wrong_kernel_stops_the_rest(tmp_path: Path):
    checkout, kernels = tmp_path / "checkout", "convflow/ops/deform/gpu_kernels.py"
    for folder in ("benchmarks", "convflow", "tests"):
        skip = shutil.ignore_patterns("__pycache__", "results", "goldens")
        shutil.copytree(ROOT / folder, checkout / folder, ignore=skip)
    text = (checkout / kernels).read_text()
    wrong = text.replace("(south * fx)[:, None] * se", "(south * fy)[:, None] * se")
    assert wrong != text
    (checkout / kernels).write_text(wrong)
    found = run(tmp_path / "out", "kernels", "speed", root=checkout, DRY="1")
    assert found.returncode == 1, found.stdout + found.stderr
    assert "what is wrong has no speed" in found.stderr
    assert "== deform" not in found.stdout
    rows = (tmp_path / "out/kernels_gpu.jsonl").read_text().splitlines()
    assert any('"wrong": true' in row for row in rows)


@pytest.mark.slow
@ON_CPU
def test_a_killed_step_is_named_and_done_again(tmp_path: Path):
    python, out = tmp_path / "python", tmp_path / "out"
    python.write_text(
        f"#!/bin/sh\nfor word; do case $word in *deform_gpu.py) kill -9 $$ ;; esac; done\n"
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    found = run(out, "speed", DRY="1", PYTHON=str(python))
    assert found.returncode == 1, found.stdout + found.stderr
    assert "these failed, with their exit codes (124: out of time): deform (137) rivals (137)" in (
        found.stdout
    )
    found = run(out, "speed", DRY="1")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "== depthwise: done before" in found.stdout
    steps = [line.split()[:2] for line in (out / "steps.txt").read_text().splitlines()]
    first, again = [["deform", "137"], ["depthwise", "0"], ["rivals", "137"]], ["deform", "rivals"]
    assert steps == [*first, *([name, "0"] for name in again)]
