"""Does a training that is killed again and again end like one that nobody disturbed?

    python -m benchmarks.reliability.kills [--kills 20] [--seed 0]

A tiny training runs through the real command line and saves after every step. SIGKILL ends it at
random moments: while it starts, while it trains, and while it writes a checkpoint. Each time it
is resumed. In the end weights, average, optimizer and metrics must equal those of an undisturbed
run, byte for byte.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import harness
from convflow.training import checkpoint

MOMENTS = ("training", "writing", "starting")
LONGEST_START_SECONDS = 120.0
SETTINGS = shlex.split(
    "--model.width 16 --model.depth 1 --model.num-groups 2 --batch-size 8 --micro-batch 5 "
    "--data.size 8x8 --data.flip true --data.channels 1 --optim.warmup-images 100 "
    "--monitor.log-every 1 --monitor.tensorboard false --monitor.num-samples 2 --sampling.steps 1"
)
BYTECODE = {
    "PYTHONDONTWRITEBYTECODE": "",
    "PYTHONPYCACHEPREFIX": f"{tempfile.gettempdir()}/convflow-bytecode",
}
"""Half of a short process is the import of torch, and half of that is its compilation."""


@dataclass(frozen=True)
class Kill:
    """One death: when it was meant, which step the disk held before and after, what was left."""

    number: int
    moment: str
    seconds: float
    step_before: int
    step_after: int
    lines_ahead: int
    draft_left: bool


def make_pictures(folder: Path) -> Path:
    """Write 22 grey pictures in two classes: no multiple of the batch, so that epochs straddle."""
    rng = np.random.default_rng(0)
    for i in range(22):
        place = folder / ("even" if i % 2 == 0 else "odd") / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(place)
    return folder


def start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """Start `convflow train` with one thread, so that a busy machine does not slow it."""
    quick = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "convflow", "train", *arguments],
        env=os.environ | quick | BYTECODE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for the end of a training and return what it said; raise when it failed."""
    said, _ = process.communicate(timeout=600)
    if process.returncode:
        raise RuntimeError(f"training ended with code {process.returncode}: {said}")
    return said


def train_with_kills(
    arguments: Sequence[str], run: Path, kills: int, rng: random.Random
) -> Iterator[Kill]:
    """Run a training to its end, killed `kills` times on the way; yield each kill."""
    start_seconds = 0.0
    for number in range(1, kills + 1):
        moment = MOMENTS[(number - 1) % len(MOMENTS)]
        before = newest(run)
        began = time.monotonic()
        process = start(arguments)
        if moment == "starting":
            time.sleep(rng.uniform(0, 1.2 * start_seconds))
        else:
            _wait(process, run, before)
            start_seconds = max(start_seconds, time.monotonic() - began)
            time.sleep(rng.uniform(0, 0.2))
            if moment == "writing":
                _wait_for_draft(process, run)
                time.sleep(rng.uniform(0, 0.003))
        process.kill()
        seconds = time.monotonic() - began
        said, _ = process.communicate()
        if process.returncode != -9:
            raise RuntimeError(f"kill {number} came after the end, take more images: {said}")
        after = newest(run)
        yield Kill(
            number, moment, round(seconds, 3), before, after,
            lines_ahead=_lines(run) - after, draft_left=bool(_drafts(run)),
        )  # fmt: skip
    finish(start(arguments))


def newest(run: Path) -> int:
    """Return the step of the newest complete checkpoint, 0 when there is none."""
    return max(checkpoint.list_steps(run), default=0)


def differences(one: Path, other: Path) -> list[str]:
    """Return which files of two finished runs differ: the metrics and the last checkpoint.

    Its `state.json` may differ: it holds the settings, how often to save among them.
    """
    if newest(one) != newest(other):
        return [f"last step {newest(one)} and {newest(other)}"]
    files = ["metrics.jsonl"]
    last = checkpoint.folder_of(one, newest(one))
    files += [
        str(p.relative_to(one))
        for p in sorted(last.rglob("*"))
        if p.name != "state.json" and p.is_file()
    ]
    expected = {"raw/model", "ema/model", "optimizer"}
    missing = [n for n in expected if not any(f.endswith(f"{n}.safetensors") for f in files)]
    changed = [f for f in files if (one / f).read_bytes() != (other / f).read_bytes()]
    return [f"{name} is missing" for name in missing] + changed


def _wait(process: subprocess.Popen[str], run: Path, before: int) -> None:
    """Return as soon as the training has written a checkpoint of its own."""
    end = time.monotonic() + LONGEST_START_SECONDS
    while newest(run) <= before and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)


def _wait_for_draft(process: subprocess.Popen[str], run: Path) -> None:
    while not _drafts(run) and process.poll() is None:
        pass


def _drafts(run: Path) -> list[Path]:
    return list((run / "checkpoints").glob(f"{checkpoint.UNFINISHED}*"))


def _lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def main() -> None:
    """Kill, resume, compare; print the table and write it to `benchmarks/results/kills.csv`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "kills.csv")
    options = parser.parse_args()
    rng, notes = random.Random(options.seed), harness.machine()
    with tempfile.TemporaryDirectory(prefix="convflow-kills-") as place:
        data = str(make_pictures(Path(place) / "data"))
        runs = {name: Path(place) / name for name in ("straight", "killed")}
        given = ["pictures.flowdcn", "--data", data, "--images", str(options.images), *SETTINGS]
        finish(start([*given, "--run", str(runs["straight"])]))
        print(
            f"{'kill':>4}  {'moment':10}{'seconds':>8}{'before':>8}{'after':>7}{'ahead':>7}  draft"
        )
        killed = [*given, "--run", str(runs["killed"]), "--checkpoint.every-minutes", "0"]
        kills = []
        for kill in train_with_kills(killed, runs["killed"], options.kills, rng):
            kills.append(kill)
            print(
                f"{kill.number:4}  {kill.moment:10}{kill.seconds:8.2f}{kill.step_before:8}"
                f"{kill.step_after:7}{kill.lines_ahead:7}  {'left' if kill.draft_left else ''}",
                flush=True,
            )
        changed = differences(*runs.values())
        last = newest(runs["straight"])
    verdict = f"differs: {', '.join(changed)}" if changed else "equal"
    with options.out.open("w", newline="") as file:
        table = csv.DictWriter(
            file, [*Kill.__dataclass_fields__, "last_step", "end", *notes], lineterminator="\n"
        )
        table.writeheader()
        for kill in kills:
            table.writerow(asdict(kill) | {"last_step": last, "end": verdict} | notes)
    print(f"{len(kills)} kills, {last} steps; weights, average, optimizer and metrics: {verdict}")
    raise SystemExit(bool(changed))


if __name__ == "__main__":
    main()
