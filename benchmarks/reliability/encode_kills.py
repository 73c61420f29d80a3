"""What does `convflow encode` lose when it is killed again and again?

    python -m benchmarks.reliability.encode_kills FOLDER [--kills 10] [--images 600] [--seed 0]

Images of noise are encoded with a tiny autoencoder in shards of 20. SIGKILL ends the command at
random moments, the same command begins again, and so on. After each kill every shard that was whole
before must still be whole. In the end the store must equal that of an undisturbed command, byte for
byte.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.data.both_ways import save_autoencoder
from benchmarks.harness import DIRTY, RESULTS, write_table
from convflow.data.store import INDEX, is_written

SHARD, SIDE = 20, 64
LONGEST_S = 300.0


@dataclass(frozen=True)
class EncodingKill:
    """One death of the command, and what the folder held before and after."""

    number: int
    seconds: float
    """From the start of the command."""
    shards_before: int
    shards_after: int
    shards_lost: int
    """Whole before this command began, and not after the kill."""
    draft_left: bool
    begun: bool
    """Whether the folder held a plan, so that shards could be written."""


def make_images(folder: Path, num: int) -> None:
    """Write images of noise in two classes."""
    rng = np.random.default_rng(0)
    for i in range(num):
        place = folder / ("even" if i % 2 == 0 else "odd") / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(place)


def start(folder: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start the command."""
    words = ["encode", folder / "images", "--out", out, "--data.size", f"{SIDE}x{SIDE}"]
    words += ["--codec.autoencoder", folder / "autoencoder", "--records.shard", SHARD]
    words += ["--batch-size", SHARD, "--device", "cpu"]
    return subprocess.Popen(
        [sys.executable, "-m", "convflow", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def whole(out: Path, num: int) -> set[int]:
    """Return the numbers of the shards that are whole."""
    return {number for number in range(num) if is_written(out, number)}


def kill(
    folder: Path, out: Path, num: int, kills: int, rng: random.Random
) -> Iterator[EncodingKill]:
    """Kill the command at random moments spread over its work; yield what each left.

    Kills end early where one finds the store whole.
    """
    for number in range(1, kills + 1):
        before, began = whole(out, num), time.monotonic()
        process = start(folder, out)
        aim = num * number // (kills + 1)
        while len(whole(out, num)) < max(aim, len(before)) and process.poll() is None:
            if time.monotonic() - began > LONGEST_S:
                raise RuntimeError("the command writes nothing")
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.5) if number % 3 else rng.uniform(0, 0.02))
        seconds, ended = time.monotonic() - began, process.poll()
        process.kill()
        process.wait()
        if ended is not None:
            raise RuntimeError(f"kill {number} came after the end ({ended}), take more images")
        if (out / INDEX).is_file():  # the store was whole before the kill
            return
        after = whole(out, num)
        drafts = [path for path in out.glob(".*") if path.name not in (".", "..")]
        yield EncodingKill(
            number,
            round(seconds, 2),
            len(before),
            len(after),
            len(before - after),
            bool(drafts),
            out.is_dir(),
        )


def main() -> None:
    """Kill, resume and compare; write `benchmarks/results/encode_kills.csv`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(DIRTY, action="store_true", help="allow files that no revision holds")
    options = parser.parse_args()
    folder, num = options.folder, -(-options.images // SHARD)
    save_autoencoder(folder / "autoencoder")
    make_images(folder / "images", options.images)
    if start(folder, folder / "straight").wait():
        raise SystemExit("the undisturbed command failed")
    rng, killed = random.Random(options.seed), folder / "killed"
    rows = []
    for row in kill(folder, killed, num, options.kills, rng):
        rows.append(row)
        sys.stdout.write(f"{row}\n")
        sys.stdout.flush()
    if not (killed / INDEX).is_file() and start(folder, killed).wait():
        raise SystemExit("the command could not go on")
    names = {path.name for each in (folder / "straight", killed) for path in each.iterdir()}
    changed = [
        name
        for name in sorted(names)
        if not ((killed / name).is_file() and (folder / "straight" / name).is_file())
        or (killed / name).read_bytes() != (folder / "straight" / name).read_bytes()
    ]
    verdict = f"differs: {', '.join(changed)}" if changed else "equal"
    sys.stdout.write(f"{len(rows)} kills, {num} shards, {INDEX} and all others: {verdict}\n")
    write_table(RESULTS / "encode_kills.csv", [asdict(row) | {"end": verdict} for row in rows])
    raise SystemExit(bool(changed) or any(row.shards_lost for row in rows))


if __name__ == "__main__":
    main()
