"""Does a training that is killed again and again end like one that nobody disturbed?

    python -m benchmarks.reliability.kills [--kills 20] [--seed 0] [--threads 1 2]

A tiny training runs through the real command line and saves after every step. SIGKILL ends it at
random moments all along the run: while it starts, while it trains, and while it writes a
checkpoint. Each time it is resumed. In the end weights, average, optimizer and metrics must equal
those of an undisturbed run with as many threads, byte for byte.
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
from typing import Any

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
    """One death: when it was meant, which step the disk held before and after, what was left.

    A kill at the start aims at no step: `step_aimed` is None.
    """

    number: int
    moment: str
    seconds: float
    step_aimed: int | None
    step_before: int
    step_after: int
    lines_ahead: int
    draft_left: bool


def make_pictures(folder: Path) -> Path:
    """Write 22 grey images in two classes: no multiple of the batch, so that epochs straddle."""
    rng = np.random.default_rng(0)
    for i in range(22):
        place = folder / ("even" if i % 2 == 0 else "odd") / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(place)
    return folder


def start(arguments: Sequence[str], threads: int = 1) -> subprocess.Popen[str]:
    """Start `convflow train`; with one thread a busy machine does not slow it."""
    limit = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return subprocess.Popen(
        [sys.executable, "-m", "convflow", "train", *arguments],
        env=os.environ | limit | BYTECODE,
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
    arguments: Sequence[str],
    run: Path,
    steps: int,
    kills: int,
    rng: random.Random,
    threads: int = 1,
) -> Iterator[Kill]:
    """Run a training of `steps` steps to its end, killed `kills` times on the way.

    Yields:
        Each kill. They aim at steps evenly spread over the run, the last some steps before its
        end.
    """
    start_seconds = 0.0
    for number in range(1, kills + 1):
        moment = MOMENTS[(number - 1) % len(MOMENTS)]
        before = newest(run)
        began = time.monotonic()
        process = start(arguments, threads)
        aim = None
        if moment == "starting":
            time.sleep(rng.uniform(0, 0.9 * start_seconds))
        else:
            _wait(process, run, before + 1)
            start_seconds = start_seconds or time.monotonic() - began
            aim = max(before + 1, steps * number // (kills + 1))
            _wait(process, run, aim)
            time.sleep(rng.uniform(0, 0.03))
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
            number, moment, round(seconds, 3), aim, before, after,
            lines_ahead=_lines(run) - after, draft_left=bool(_drafts(run)),
        )  # fmt: skip
    finish(start(arguments, threads))


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


def _wait(process: subprocess.Popen[str], run: Path, step: int) -> None:
    """Return as soon as the training has written the checkpoint of `step`."""
    end = time.monotonic() + LONGEST_START_SECONDS
    while newest(run) < step and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)


def _wait_for_draft(process: subprocess.Popen[str], run: Path) -> None:
    while not _drafts(run) and process.poll() is None:
        pass


def _drafts(run: Path) -> list[Path]:
    return list((run / "checkpoints").glob(f"{checkpoint.UNFINISHED}*"))


def _lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def measure(place: Path, options: argparse.Namespace, threads: int) -> Iterator[dict[str, Any]]:
    """Kill, resume, compare and print the table; yield its rows."""
    data = str(make_pictures(place / "data"))
    straight, killed = place / "straight", place / "killed"
    given = ["pictures.flowdcn", "--data", data, "--images", str(options.images), *SETTINGS]
    finish(start([*given, "--run", str(straight)], threads))
    last, rng = newest(straight), random.Random(options.seed)
    print(f"{threads} threads, {last} steps")
    print(
        f"{'kill':>4}  {'moment':10}{'seconds':>8}{'aimed':>7}{'before':>8}{'after':>7}"
        f"{'ahead':>7}  draft"
    )
    often = [*given, "--run", str(killed), "--checkpoint.every-minutes", "0"]
    kills = []
    for kill in train_with_kills(often, killed, last, options.kills, rng, threads):
        kills.append(kill)
        print(
            f"{kill.number:4}  {kill.moment:10}{kill.seconds:8.2f}{kill.step_aimed or '':>7}"
            f"{kill.step_before:8}{kill.step_after:7}{kill.lines_ahead:7}"
            f"  {'left' if kill.draft_left else ''}",
            flush=True,
        )
    changed = differences(straight, killed)
    verdict = f"differs: {', '.join(changed)}" if changed else "equal"
    print(f"{len(kills)} kills, {last} steps; weights, average, optimizer and metrics: {verdict}\n")
    for kill in kills:
        yield asdict(kill) | {"last_step": last, "end": verdict, "threads": threads}


def main() -> None:
    """Do it once for each number of threads; write `benchmarks/results/kills.csv`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=1_200, help="eight for each step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="of the training")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "kills.csv")
    parser.add_argument(harness.DIRTY, action="store_true", help="allow uncommitted changes")
    options = parser.parse_args()
    notes, rows = harness.machine(), []
    for threads in options.threads:
        with tempfile.TemporaryDirectory(prefix="convflow-kills-") as place:
            rows += [notes | row for row in measure(Path(place), options, threads)]
    fields = [*Kill.__dataclass_fields__, "last_step", "end", *notes]
    with options.out.open("w", newline="") as file:
        table = csv.DictWriter(file, fields, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    raise SystemExit(any(row["end"] != "equal" for row in rows))


if __name__ == "__main__":
    main()
