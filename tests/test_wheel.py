"""The package as a user gets it: built, installed without extras, and used from an empty folder."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import convflow
from convflow import shipped
from tests.cli.conftest import TINY

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WANTED = (
    "convflow/recipes/cifar10.py",
    "convflow/demo/digits.py",
    "convflow/class_names.py",
)
OTHERS = ("tests/", "benchmarks/", "docs/", "scripts/", ".ci/")


def name_of(requirement: str) -> str:
    """Return the name of the package in a requirement, as `importlib.metadata` finds it."""
    return re.split(r"[^\w.-]", requirement.strip())[0]


def needs(requirements: list[str]) -> set[str]:
    """Return the distributions that requirements without an extra bring, and theirs."""
    found: set[str] = set()
    waiting = [name_of(text) for text in requirements if "extra ==" not in text]
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            known = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # of another system or Python
            continue
        found.add(name)
        waiting += [name_of(t) for t in known.requires or () if "extra ==" not in t]
    return found


def run(words: list[object], place: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder, without what the tests tell Python."""
    left = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "CONVFLOW"))}
    quiet = left | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [str(word) for word in words]
    return subprocess.run(
        command, cwd=place, env=quiet, capture_output=True, text=True, timeout=280, check=False
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive, and with the wheel that was built from it."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("dist")
    done = run([sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT], out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def program(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of a fresh environment with the wheel and what the core needs, no more.

    What it needs is linked from the environment of the tests.
    """
    venv = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    for name in needs(PROJECT["dependencies"]):
        known = importlib.metadata.distribution(name)
        for part in {file.parts[0] for file in known.files or ()} - {"..", "__pycache__"}:
            source = Path(str(known.locate_file(part)))
            if source.exists() and not (site / part).exists():
                (site / part).symlink_to(source, target_is_directory=source.is_dir())
    (wheel,) = built.glob("*.whl")
    python = venv / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
    done = run([*pip, wheel], venv)
    assert done.returncode == 0, done.stdout + done.stderr
    return venv / "bin" / "convflow"


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    (source,) = built.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    folder = f"convflow-{convflow.__version__}"
    assert {n for n in names if not n.startswith(("convflow/", f"{folder}.dist-info/"))} == set()
    tracked = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "convflow"], capture_output=True, text=True, check=False
    ).stdout.split()
    assert {*WANTED, *(n for n in tracked if (ROOT / n).is_file())} <= names
    assert not [n for n in names if "__pycache__" in n or n.endswith((".pyc", ".lock"))]
    with tarfile.open(source) as archive:
        inside = {n.removeprefix(f"{folder}/") for n in archive.getnames()}
    assert {n for n in names if n.startswith("convflow/")} <= inside
    assert not [n for n in inside if n.startswith(OTHERS)]


@pytest.mark.slow
def test_the_source_archive_builds_what_the_checkout_builds(built: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, ROOT]
    assert run(words, tmp_path).returncode == 0
    (one,), (other,) = built.glob("*.whl"), tmp_path.glob("*.whl")
    assert one.name == other.name
    first, second = zipfile.ZipFile(one), zipfile.ZipFile(other)
    assert first.namelist() == second.namelist()
    assert all(first.read(name) == second.read(name) for name in first.namelist())


@pytest.mark.slow
def test_a_fresh_environment_without_extras_does_the_work(program: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(8):
        folder = tmp_path / "images" / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{i}.png")
    where = [program.parent / "python", "-c", "import convflow; print(convflow.__file__)"]
    assert run(where, tmp_path).stdout.startswith(str(program.parents[1]))
    train = "train pictures.flowdcn --data images --data.size 8x8 --run runs/x".split()
    for words in (
        [*train, *TINY],
        "sample runs/x --num 2 --out x.png --device cpu".split(),
        ["info", "runs/x"],
        ["info", "imagenet.dit_xl"],
        ["doctor"],
    ):
        done = run([program, *words], tmp_path)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    with Image.open(tmp_path / "x.png") as page:
        assert page.mode == "RGB"
    done = run([program, "demo"], tmp_path)
    here = (shipped.SHIPPED_FOLDER / "cifar10" / "model.safetensors").is_file()
    assert done.returncode == (0 if here else 2), done.stderr
    assert (tmp_path / "demo.png").is_file() == here
    done = run([program, "demo", "digits", "--run", "runs/digits"], tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "convflow[digits]" in done.stderr


def test_the_pythons_that_are_named_are_those_that_are_taken() -> None:
    least = re.fullmatch(r">=3\.(\d+)", PROJECT["requires-python"])
    assert least
    named = [c.rpartition(".")[2] for c in PROJECT["classifiers"] if ":: 3." in c]
    assert [int(minor) for minor in named] == list(range(int(least[1]), int(named[-1]) + 1))
    assert f"3.{sys.version_info.minor}" in {f"3.{minor}" for minor in named}
