"""How fast a training reads a store of latents, and what memory that takes.

python -m benchmarks.data.latents FOLDER --num 1000000

The store in FOLDER/store, or the stores in it, are read; where there is none it is made. It holds
random moments 2x4x32x32 in float16: 16.4 GB for a million. Records are read in the order of a
training, in batches of 256, by one thread. Then, with --train, `convflow train` takes one step with
a tiny DiT. Files that are not in the page cache are read from the disk.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.harness import RESULTS, write_table
from convflow.codecs import LatentCodec
from convflow.data.latents import Latents, find_stores
from convflow.data.loader import Order
from convflow.data.store import write_store
from convflow.settings.read import to_dict
from convflow.units import bytes_of

SHARD, BATCH, CLASSES = 4096, 256, 1000
STEP = (
    "train imagenet.dit_s --data {store} --data.flip false --run {run} --images 8 --batch-size 8 "
    "--model.width 64 --model.depth 1 --model.num-heads 1 --monitor.tensorboard false --device cpu "
    "--monitor.log-every 1"
)


def make(folder: Path, num: int) -> None:
    """Write a store of random moments; every shard is the same but for the order of its records."""
    rng = np.random.default_rng(0)
    records = rng.standard_normal((SHARD, 1, 2, 4, 32, 32), np.float32).astype(np.float16)

    def shards() -> Iterator[np.ndarray]:
        for start in range(0, num, SHARD):
            yield np.roll(records, start // SHARD, 0)[: num - start]

    codec = to_dict(LatentCodec(scale=0.18215, shift=0.0))
    names = [f"class {i}" for i in range(CLASSES)]
    labels = np.arange(num) % CLASSES
    write_store(folder, shards(), labels, codec=codec, factor=8, class_names=names)


def memory() -> dict[str, float]:
    """Return MiB of this process: its own (anonymous), and files mapped."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return {name: int(found[name]) / 1024 for name in ("RssAnon", "RssFile")}


def read(folder: Path, seconds: float) -> dict[str, object]:
    """Open a store and read batches in random order for some seconds."""
    before, began = memory(), time.perf_counter()
    latents = Latents(str(folder), find_stores(folder))
    order = Order(len(latents), seed=0, flip=False)
    latents.batch(order.rows(0, BATCH).indices)
    opened, count = time.perf_counter() - began, 0
    began, cpu = time.perf_counter(), time.thread_time()
    for step in itertools.count(1):
        latents.batch(order.rows(step * BATCH, BATCH).indices)
        count += BATCH
        if (spent := time.perf_counter() - began) > seconds:
            break
    after, cpu = memory(), time.thread_time() - cpu
    size = sum(path.stat().st_size for place in latents.folders for path in place.iterdir())
    return {
        "records": len(latents),
        "files": bytes_of(size),
        "first_batch_s": f"{opened:.2f}",
        "records_per_s": f"{count / spent:.0f}",
        "records_per_cpu_s": f"{count / cpu:.0f}",
        "own_mib": f"{after['RssAnon'] - before['RssAnon']:.0f}",
        "mapped_mib": f"{after['RssFile'] - before['RssFile']:.0f}",
    }


def train(words: Sequence[str], run: Path) -> dict[str, object]:
    """Run a training of one step; return when the step was done, and what the command took."""
    began, metrics = time.perf_counter(), run / "metrics.jsonl"
    if metrics.exists():
        raise SystemExit(f"expected no run at {run}, got one; remove it")
    process = subprocess.Popen([sys.executable, "-m", "convflow", *words])
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.01)
    first = time.perf_counter() - began
    if process.wait():
        raise SystemExit("the training failed")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "first_step_s": f"{first:.1f}",
        "command_s": f"{time.perf_counter() - began:.1f}",
        "command_cpu_s": f"{used.ru_utime + used.ru_stime:.1f}",
        "command_peak_mib": f"{used.ru_maxrss / 1024:.0f}",
    }


def main() -> None:
    """Make the store where it is missing, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--train", action="store_true", help="time the first step of a command")
    parser.add_argument("--dirty", action="store_true", help="allow files that no revision holds")
    options = parser.parse_args()
    store = options.folder / "store"
    if not find_stores(store):
        make(store, options.num)
    row = read(store, options.seconds)
    if options.train:
        words = STEP.format(store=store, run=options.folder / "run").split()
        row |= train(words, options.folder / "run")
    write_table(RESULTS / "latents.csv", [row])
    sys.stdout.write(f"{row}\n")


if __name__ == "__main__":
    main()
