"""How soon a training on many images takes its first step, and how much memory that takes.

    python -m benchmarks.data.start [--images 1281167] [--kinds links parquet] [--place FOLDER]

The images are hard links to 64 files, in 1,000 class folders, or as many rows of a parquet file. A
tiny training takes one step on them: at first, and again when what it saw is remembered. The same
training on 64 images tells what the program takes without data. Writes `results/data_start.csv`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import harness
from benchmarks.reliability.kills import SETTINGS

FILES, CLASSES = 64, 1000
COUNT = 1_281_167


def write_files(folder: Path) -> list[Path]:
    """Write small JPEGs and PNGs of noise, and return them."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(FILES):
        image = Image.fromarray(generator.integers(0, 256, (12, 16, 3), np.uint8))
        image.save(folder / f"{number}.{('jpg', 'png')[number % 2]}")
    return sorted(folder.iterdir())


def write_links(files: list[Path], folder: Path, count: int) -> Path:
    """Link so many images into class folders."""
    for number in range(CLASSES):
        (folder / f"{number:04}").mkdir(parents=True)
    for number in range(count):
        file = files[number % FILES]
        os.link(file, f"{folder}/{number % CLASSES:04}/{number:07}{file.suffix}")
    return folder


def write_parquet(files: list[Path], path: Path, count: int) -> Path:
    """Write a table with so many rows."""
    import pyarrow as pa
    from pyarrow import parquet

    contents = [{"bytes": file.read_bytes(), "path": None} for file in files]
    step = 10_000
    schema = pa.schema(
        {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()}
    )
    with parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, count, step):
            rows = range(start, min(start + step, count))
            columns = {
                "image": [contents[row % FILES] for row in rows],
                "label": [row % CLASSES for row in rows],
            }
            writer.write_table(pa.table(columns, schema), row_group_size=1000)
    return path


def take_a_step(data: Path, run: Path, memory: Path) -> tuple[float, float]:
    """Return the seconds until the first step is written down, and the most MiB held."""
    words = [*SETTINGS, "--images", "8", "--data", str(data), "--run", str(run)]
    metrics = run / "metrics.jsonl"
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "convflow", "train", "pictures.flowdcn", *words],
        env=os.environ | {"HF_ASSETS_CACHE": str(memory), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    seconds, most = 0.0, 0.0
    while process.poll() is None:
        if not seconds and metrics.is_file() and metrics.stat().st_size:
            seconds = time.monotonic() - began
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            most = max(most, int(status.partition("VmHWM:")[2].split()[0]) / 1024)
        except (OSError, IndexError):  # it has just ended
            pass
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"the training ended with {process.returncode}")
    shutil.rmtree(run)
    return seconds, most


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=COUNT)
    parser.add_argument("--kinds", nargs="+", default=["links", "parquet"])
    parser.add_argument("--place", type=Path)
    parser.add_argument(harness.DIRTY, action="store_true")
    given = parser.parse_args()
    machine, rows = harness.machine(), []
    with tempfile.TemporaryDirectory(dir=given.place) as place:
        top = Path(place)
        files = write_files(top / "files")
        seconds, alone = take_a_step(top / "files", top / "run", top / "memory")
        print(f"{FILES} images: first step after {seconds:.1f} s, {alone:.0f} MiB")
        for kind in given.kinds:
            if kind == "links":
                data = write_links(files, top / "links", given.images)
            else:
                data = write_parquet(files, top / "table.parquet", given.images)
            for start in ("first", "second"):
                seconds, most = take_a_step(data, top / "run", top / "memory")
                print(
                    f"{given.images:,} images as {kind}, {start} start: first step after "
                    f"{seconds:.1f} s, {most - alone:.0f} MiB above {FILES} images"
                )
                found = {"kind": kind, "images": given.images, "start": start}
                numbers = {"seconds": f"{seconds:.1f}", "mib_above": f"{most - alone:.0f}"}
                rows.append(found | numbers)
    harness.write_table(harness.RESULTS / "data_start.csv", rows, **machine)


if __name__ == "__main__":
    main()
