"""An installation is measured by its files, and an extra by what it adds."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import pytest

from benchmarks import install


def write_wheel(folder: Path, name: str, size: int, *needs: str) -> Path:
    """Write a package of one file with so many bytes."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nProvides-Extra: more\n"
    about += "".join(f"Requires-Dist: {need}\n" for need in needs)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/data.bin", bytes(size))
        archive.writestr(f"{name}-1.0.dist-info/METADATA", about)
        archive.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return path


@pytest.mark.slow
def test_sizes_are_those_of_the_files(tmp_path, monkeypatch):
    write_wheel(tmp_path, "torch", 3_000_000)
    write_wheel(tmp_path, "extra", 2_000_000)
    wheel = write_wheel(tmp_path, "whole", 1_000_000, "torch", "extra; extra == 'more'")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    place, cache = tmp_path / "place", tmp_path / "cache"
    found = install.install(place, cache, [str(wheel)])
    assert (found.packages, round(found.megabytes), round(found.torch_megabytes)) == (2, 4, 3)
    assert found.seconds > 0
    more = install.add(place, cache, f"{wheel}[more]")
    assert (more.packages, round(more.megabytes)) == (1, 2)
    assert math.isnan(more.seconds)
    assert install.rounded(more)["seconds"] == ""
    assert install.add(place, cache, str(wheel)).packages == 0
