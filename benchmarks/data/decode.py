"""How many images a second the loader decodes, beside plain Pillow, and how long a step waits.

    python -m benchmarks.data.decode [--images 20000] [--size 256] [--step 0.2]

JPEGs of 500x400 pixels, in random order, are brought to one size: by a loop of Pillow on one core,
by the loader with one thread and with one on each core, and from processes. Then a step that
sleeps takes batches of 64: how much of its time does it wait? Writes `results/data_decode.csv`.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks import harness
from convflow.data.images import num_cores
from convflow.data.loader import Images, Order, batches
from convflow.data.sources import open_source
from convflow.training.monitor import DataWait

FILES, BATCH = 200, 64
PLAIN = "Pillow, one core"


def write_images(folder: Path, count: int) -> Path:
    """Write JPEGs as photographs compress: smooth, with some noise; each linked to many names."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        path = folder / f"{number:06}.jpg"
        if number >= FILES:
            os.link(folder / f"{number % FILES:06}.jpg", path)
            continue
        coarse = Image.fromarray(generator.integers(0, 256, (12, 15, 3), np.uint8))
        smooth = np.asarray(coarse.resize((500, 400), Image.Resampling.BICUBIC), np.int16)
        noisy = smooth + generator.integers(-12, 13, smooth.shape, np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return folder


def plain(path: Path, side: int) -> np.ndarray:
    """Decode, resize and crop as anybody would with Pillow."""
    image = Image.open(BytesIO(path.read_bytes())).convert("RGB")
    scale = side / min(image.size)
    size = [max(side, round(length * scale)) for length in image.size]
    image = image.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    left, top = ((length - side) // 2 for length in size)
    return np.asarray(image.crop((left, top, left + side, top + side)))


class Rates(NamedTuple):
    """Images a second by the clock, and a second of processor time."""

    clock: float
    core: float


@contextmanager
def timed(found: dict[str, Rates], way: str, images: Callable[[], int]) -> Iterator[None]:
    """Note how fast a block goes through its images, counted after it."""
    whose = resource.RUSAGE_CHILDREN if "processes" in way else resource.RUSAGE_SELF

    def used() -> float:
        usage = resource.getrusage(whose)
        return usage.ru_utime + usage.ru_stime

    began, before = time.perf_counter(), used()
    yield
    found[way] = Rates(images() / (time.perf_counter() - began), images() / (used() - before))


def measure(folder: Path, side: int, count: int) -> dict[str, Rates]:
    """Images a second by each way, over so many images."""
    files, found = sorted(folder.iterdir()), dict[str, Rates]()
    chosen, _ = Order(len(files), 0, False).at(0, count)
    with timed(found, PLAIN, lambda: count):
        for index in chosen:
            plain(files[index], side)
    for workers in sorted({1, num_cores()}):
        source, decoded = open_source(str(folder)), list[int]()
        fetch = source.fetch
        source.fetch = lambda index, fetch=fetch, decoded=decoded: (
            decoded.append(index) or fetch(index)
        )
        kept = {"channels": 3, "size": (side, side), "cache_bytes": 0, "workers": workers}
        images = Images(source, np.arange(len(files)), **kept)
        stream = batches(images, Order(len(files), 0, False), 0, BATCH)
        with timed(found, f"loader, {workers} threads", decoded.__len__):
            for _ in range(count // BATCH):
                next(stream)
            stream.close()  # with those that it made ahead
    with (
        timed(found, f"Pillow, {num_cores()} processes", lambda: count),
        ProcessPoolExecutor(num_cores(), mp_context=get_context("fork")) as pool,
    ):
        for part in np.array_split(chosen, max(count // BATCH, 1)):
            list(pool.map(plain, [files[i] for i in part], [side] * len(part), chunksize=8))
    return found


def wait(folder: Path, side: int, seconds: float, steps: int) -> float:
    """The share of its time that a step of so many seconds waits for its batch."""
    source = open_source(str(folder))
    images = Images(source, np.arange(len(source)), channels=3, size=(side, side), cache_bytes=0)
    stream, waited = batches(images, Order(len(source), 0, False), 0, BATCH), DataWait()
    for _ in range(steps):
        with waited:
            next(stream)
        time.sleep(seconds)
    share = waited.share("line")
    stream.close()
    return share


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--step", type=float, default=0.2)
    parser.add_argument("--count", type=int, default=2048, help="images for each way")
    parser.add_argument(harness.DIRTY, action="store_true")
    given = parser.parse_args()
    machine = harness.machine()
    with tempfile.TemporaryDirectory() as place:
        folder = write_images(Path(place) / "images", given.images)
        rates = measure(folder, given.size, given.count)
        share = wait(folder, given.size, given.step, given.count // BATCH)
    rows: list[dict[str, object]] = [
        {
            "way": way,
            "images_per_s": f"{found.clock:.0f}",
            "images_per_core_s": f"{found.core:.0f}",
            "of_pillow": f"{found.core / rates[PLAIN].core:.2f}",
            "wait": "",
        }
        for way, found in rates.items()
    ]
    for row in rows:
        print(
            f"{row['way']}: {row['images_per_s']} images/s, {row['images_per_core_s']} for each "
            f"second of a core, {row['of_pillow']} of Pillow's"
        )
    print(f"a step of {given.step} s at batch {BATCH} waits {share:.1%} of its time")
    rows.append(dict.fromkeys(rows[0], "") | {"way": f"step of {given.step} s"})
    rows[-1]["wait"] = f"{share:.4f}"
    harness.write_table(harness.RESULTS / "data_decode.csv", rows, **machine)


if __name__ == "__main__":
    main()
