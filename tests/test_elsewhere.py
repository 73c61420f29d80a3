"""Windows and Macs, as far as Linux can play them: without what only Linux has, on old consoles."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from convflow import hub
from tests.cli.conftest import TINY

ELSEWHERE = """
import builtins, ctypes, io, os, runpy, sys, warnings

for module in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[module] = None
for name in (
    "fork", "sched_getaffinity", "sched_setaffinity", "symlink", "link", "mkfifo", "getuid",
    "geteuid", "getloadavg", "O_NONBLOCK", "fchmod", "pread", "posix_fadvise",
):
    vars(os).pop(name, None)

honest_open, honest_stat, honest_library = open, os.stat, ctypes.CDLL

def hidden(path):
    return isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(("/proc", "/sys"))

def open_elsewhere(file, *words, **more):
    if hidden(file):
        raise FileNotFoundError(2, "No such file", file)
    return honest_open(file, *words, **more)

def stat_elsewhere(path, *words, **more):
    if hidden(path):
        raise FileNotFoundError(2, "No such file", path)
    return honest_stat(path, *words, **more)

def library_elsewhere(name, *words, **more):
    if name is None or "libtorch_cpu.so" in str(name):
        raise TypeError("no such library") if name is None else OSError("no such library")
    return honest_library(name, *words, **more)

builtins.open = io.open = open_elsewhere
os.stat, ctypes.CDLL = stat_elsewhere, library_elsewhere
warnings.filterwarnings("error", category=EncodingWarning, module=r"convflow(\\.|$)")

from convflow.cli.main import main

codes = []
for command in sys.argv[1:]:
    try:
        codes.append(main(command.split()))
    except SystemExit as left:  # argparse, after its help
        codes.append(left.code)
print(codes)
"""
"""What a program finds there; EncodingWarning says where a text is in the system's encoding."""

FORBIDDEN = set('<>:"|?*\\')
RESERVED = {"CON", "PRN", "AUX", "NUL", "COM1", "LPT1"}
LABELS = ("a:b?", "con", "猫|*", "..")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images whose classes are named as no file of Windows can be."""
    import numpy as np
    from PIL import Image

    place = tmp_path_factory.mktemp("elsewhere")
    rng = np.random.default_rng(0)
    (place / "images").mkdir()
    rows = []
    for i in range(8):
        pixels = rng.integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(place / "images" / f"{i}.png")
        rows.append(json.dumps({"file_name": f"{i}.png", "label": LABELS[i % 4]}))
    (place / "images" / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return place


def run_elsewhere(place: Path, *commands: str) -> tuple[list[int], bytes, bytes]:
    """Run commands there, on a console of Western Europe; return codes, output and errors."""
    root = Path(__file__).parents[1]
    (place / "elsewhere.py").write_text(ELSEWHERE, encoding="utf-8")
    settings = {"PYTHONIOENCODING": "cp1252", "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-X", "warn_default_encoding", "elsewhere.py", *commands]
    done = subprocess.run(words, cwd=place, capture_output=True, env=os.environ | settings)
    assert done.returncode == 0, done.stderr
    *_, codes = done.stdout.splitlines()
    return json.loads(codes), done.stdout, done.stderr


@pytest.mark.slow
def test_a_model_is_trained_sampled_exported_and_scored(place):
    small = " ".join(TINY)
    train = f"train pictures.flowdcn --data images --data.size 8x8 --data.channels 1 {small}"
    codes, out, error = run_elsewhere(
        place,
        f"{train} --run run --monitor.log-every 1",
        f"{train} --run run".replace("--images 8", "--images 12"),
        "sample run --single --num 4 --out some --previews strips --device cpu",
        "export run --out out --dtype bfloat16",
        "info run",
        "plan digits.flowdcn",
        "nearest run --data images --num 4 --device cpu",
    )
    assert codes == [0] * 7, error.decode("cp1252")
    assert b"\\u732b" in out, "the console has no such letter"
    for path in place.rglob("*"):
        name = path.name
        assert not FORBIDDEN & set(name), path
        assert not name.endswith((".", " ")), path
        assert name.partition(".")[0].upper() not in RESERVED, path
        assert not path.is_symlink()


def test_words_and_mistakes_are_printed_on_an_old_console(place):
    codes, out, error = run_elsewhere(
        place, "--help", "demo --help", "train 猫", "info Z:\\nothing\\there"
    )
    assert codes == [0, 0, 2, 2]
    assert "usage: convflow demo" in out.decode("cp1252")
    assert error.decode("cp1252").count("error: ") == 2


def test_a_drive_that_is_not_there_has_nothing_near(monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda self, **_: False)
    monkeypatch.setattr(Path, "is_dir", lambda self, **_: False)
    assert hub.nearest(Path("/a/b")) is None
