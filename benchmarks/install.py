"""How much does `pip install` of convflow bring, beside diffusers and for each extra?

    python -m benchmarks.install [--torch torch==2.13.0] [--extras onnx web ...] [--untimed]

The core and `diffusers[torch]` are each installed twice into an empty environment, with the same
torch. The first installation fills pip's cache, the second is timed. With `--untimed`, on a busy
machine, each is installed once and the table has no seconds. Of an extra the table has what
it adds to the core. The build of torch is that which pip finds: PIP_FIND_LINKS or PIP_INDEX_URL.
Sizes are those of all files of the environment, in 10^6 bytes, bytecode included.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import harness

ROOT = Path(__file__).resolve().parents[1]
SKIPPED = ("dev", "docs", "bench", "demo")
"""Extras for work on the package, and those that are others by another name."""


class Installed(NamedTuple):
    """What an installation brought."""

    packages: int
    megabytes: float
    torch_megabytes: float
    seconds: float


def install(place: Path, cache: Path, requirements: Sequence[str]) -> Installed:
    """Install into a new environment at `place`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    begun = time.perf_counter()
    pip(["install", "-q", "--cache-dir", str(cache), *requirements], place)
    seconds = time.perf_counter() - begun
    (site,) = place.glob("lib/python*/site-packages")  # lib64 is a link to it
    parts = [size_of(site / name) for name in ("torch", "torchgen", "functorch")]
    return Installed(len([*site.glob("*.dist-info")]), size_of(site), sum(parts), seconds)


def add(place: Path, cache: Path, requirement: str) -> Installed:
    """Measure what a requirement would add to the environment at `place`, which stays as it is."""
    options = ["--cache-dir", str(cache)]
    answer = pip(["install", "-q", "--dry-run", "--report", "-", *options, requirement], place)
    found = [row["metadata"] for row in json.loads(answer)["install"]]
    exact = [f"{row['name']}=={row['version']}" for row in found if row["name"] != "convflow"]
    with tempfile.TemporaryDirectory() as target:
        if exact:
            pip(["install", "-q", "--no-deps", "--target", target, *options, *exact], place)
        return Installed(len(exact), size_of(Path(target)), 0.0, float("nan"))


def pip(words: Sequence[str], place: Path) -> str:
    """Run pip for the environment at `place` and return what it prints."""
    command = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def size_of(folder: Path) -> float:
    """Return the 10^6 bytes of all files below a folder."""
    return sum(p.lstat().st_size for p in folder.rglob("*") if not p.is_dir()) / 1e6


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print and write `benchmarks/results/install.csv`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--torch", default="torch==2.13.0")
    parser.add_argument("--extras", nargs="*", help="default: all for users")
    parser.add_argument("--untimed", action="store_true", help="install once, write no seconds")
    parser.add_argument("--dirty", action="store_true", help="allow changed files")
    options = parser.parse_args(words)
    harness.machine()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = options.extras
    if extras is None:
        extras = [name for name in project["optional-dependencies"] if name not in SKIPPED]
    rows = list[dict[str, object]]()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", place]
        subprocess.run([*build, ROOT], check=True, stdout=subprocess.DEVNULL)
        (wheel,) = place.glob("*.whl")
        for name, requirement in (("core", str(wheel)), ("diffusers[torch]", "diffusers[torch]")):
            for number in (1,) if options.untimed else (1, 2):
                at = place / re.sub(r"\W", "-", f"{name}-{number}")
                found = install(at, place / "cache", [requirement, options.torch])
            found = found._replace(seconds=float("nan")) if options.untimed else found
            rows.append({"case": name, **rounded(found)})
            print(rows[-1], flush=True)
        for name in extras:
            found = add(place / "core-1", place / "cache", f"{wheel}[{name}]")
            rows.append({"case": f"[{name}] adds", **rounded(found)})
            print(rows[-1], flush=True)
    harness.write_table(harness.RESULTS / "install.csv", rows, requirement=options.torch)


def rounded(found: Installed) -> dict[str, object]:
    """Return a row's cells."""
    return {
        "packages": found.packages,
        "megabytes": round(found.megabytes),
        "torch_megabytes": round(found.torch_megabytes),
        "seconds": "" if found.seconds != found.seconds else round(found.seconds, 1),
    }


if __name__ == "__main__":
    main()
