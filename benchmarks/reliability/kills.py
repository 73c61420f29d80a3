"""Does a training that is killed again and again end like one that nobody disturbed?

    python -m benchmarks.reliability.kills [--kills 20] [--seed 0] [--threads 1 2]
    python -m benchmarks.reliability.kills --processes 2 --parallel ddp fsdp --out FILE

A tiny training runs through the real command line and saves after every step. SIGKILL ends it at
random moments all along the run: while it starts, while it trains, and while it writes a
checkpoint. Each time it is resumed. In the end weights, average, optimizer and metrics must equal
those of an undisturbed run of the same kind, byte for byte.

Several processes run under torchrun. Every other kill then ends all of them, torchrun too; the
others end one process, and torchrun goes on from the last checkpoint by itself.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
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
    victim: str
    """A rank, or all."""
    seconds_to_end: float
    """From the kill until the last of the processes was gone."""


def make_pictures(folder: Path) -> Path:
    """Write 22 grey images in two classes: no multiple of the batch, so that epochs straddle."""
    rng = np.random.default_rng(0)
    for i in range(22):
        place = folder / ("even" if i % 2 == 0 else "odd") / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(place)
    return folder


def start(
    arguments: Sequence[str], threads: int = 1, processes: int = 1
) -> subprocess.Popen[bytes]:
    """Start `convflow train`; with one thread a busy machine does not slow it."""
    limit = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    torchrun = shlex.split(f"torch.distributed.run --standalone --nproc-per-node {processes}")
    torchrun += ["--monitor-interval", "0.1", "--max-restarts", "1000", "-m", "--"]
    said = tempfile.NamedTemporaryFile(delete=False)  # noqa: SIM115, a pipe would fill
    with said:
        process = subprocess.Popen(
            [sys.executable, "-m", *torchrun * (processes > 1), "convflow", "train", *arguments],
            env=os.environ | limit | BYTECODE,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    process.said = Path(said.name)  # type: ignore[attr-defined]
    return process


def finish(process: subprocess.Popen[bytes]) -> str:
    """Wait for the end of a training and return what it said; raise when it failed."""
    code = process.wait(timeout=600)
    said = process.said.read_text()  # type: ignore[attr-defined]
    if code:
        raise RuntimeError(f"training ended with code {code}: {said}")
    return said


def kill(process: subprocess.Popen[bytes], victim: int | None) -> float:
    """Kill one rank, or a program and all of its ranks; return the seconds until all are gone."""
    while victim is not None and len(_children(process.pid)) <= victim:  # torchrun still starts
        time.sleep(0.01)
    ranks, began = _children(process.pid), time.monotonic()
    if victim is None:
        process.kill()
    doomed = ranks if victim is None else ranks[victim : victim + 1]
    for rank in doomed:
        with suppress(ProcessLookupError):
            os.kill(rank, signal.SIGKILL)
    while any(_runs(rank) for rank in ranks):
        time.sleep(0.01)
    if victim is None:
        process.wait()
    return time.monotonic() - began


def _children(parent: int) -> list[int]:
    path = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(word) for word in path.read_text().split()]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def train_with_kills(
    arguments: Sequence[str],
    run: Path,
    steps: int,
    kills: int,
    rng: random.Random,
    threads: int = 1,
    processes: int = 1,
) -> Iterator[Kill]:
    """Run a training of `steps` steps to its end, killed `kills` times on the way.

    Yields:
        Each kill. They aim at steps evenly spread over the run, the last some steps before its
        end.
    """
    start_seconds, process = 0.0, None
    for number in range(1, kills + 1):
        moment = MOMENTS[(number - 1) % len(MOMENTS)]
        before = newest(run)
        began = time.monotonic()
        process = process or start(arguments, threads, processes)
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
        if process.poll() is not None:
            raise RuntimeError(f"kill {number} came after the end, take more images")
        seconds = time.monotonic() - began
        victim = None if processes == 1 or number % 2 == 0 else rng.randrange(processes)
        to_end = kill(process, victim)
        after = newest(run)
        yield Kill(
            number, moment, round(seconds, 3), aim, before, after,
            lines_ahead=_lines(run) - after, draft_left=bool(_drafts(run)),
            victim="all" if victim is None else str(victim), seconds_to_end=round(to_end, 3),
        )  # fmt: skip
        process = None if victim is None else process
    finish(process or start(arguments, threads, processes))


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
    expected = {"raw", "ema", "optimizer"}
    weights = [f.removesuffix(".safetensors") for f in files if f.endswith(".safetensors")]
    missing = [n for n in expected if not any(n in f.split("/") for f in weights)]
    changed = [f for f in files if (one / f).read_bytes() != (other / f).read_bytes()]
    return [f"{name} is missing" for name in missing] + changed


def _wait(process: subprocess.Popen[bytes], run: Path, step: int) -> None:
    """Return as soon as the training has written the checkpoint of `step`."""
    end = time.monotonic() + LONGEST_START_SECONDS
    while newest(run) < step and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)


def _wait_for_draft(process: subprocess.Popen[bytes], run: Path) -> None:
    while not _drafts(run) and process.poll() is None:
        pass


def _drafts(run: Path) -> list[Path]:
    return list((run / "checkpoints").glob(f"{checkpoint.UNFINISHED}*"))


def _lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def measure(
    place: Path, options: argparse.Namespace, threads: int, parallel: str
) -> Iterator[dict[str, Any]]:
    """Kill, resume, compare and print the table; yield its rows."""
    data = str(make_pictures(place / "data"))
    straight, killed = place / "straight", place / "killed"
    given = ["pictures.flowdcn", "--data", data, "--images", str(options.images), *SETTINGS]
    given += ["--parallel", parallel]
    finish(start([*given, "--run", str(straight)], threads, options.processes))
    last, rng = newest(straight), random.Random(options.seed)
    print(f"{options.processes} processes ({parallel}), {threads} threads, {last} steps")
    print(
        f"{'kill':>4}  {'moment':10}{'seconds':>8}{'aimed':>7}{'before':>8}{'after':>7}"
        f"{'ahead':>7}{'victim':>8}{'to end':>8}  draft"
    )
    often = [*given, "--run", str(killed), "--checkpoint.every-minutes", "0"]
    kills = []
    many = options.processes
    for kill in train_with_kills(often, killed, last, options.kills, rng, threads, many):
        kills.append(kill)
        print(
            f"{kill.number:4}  {kill.moment:10}{kill.seconds:8.2f}{kill.step_aimed or '':>7}"
            f"{kill.step_before:8}{kill.step_after:7}{kill.lines_ahead:7}"
            f"{kill.victim:>8}{kill.seconds_to_end:8.2f}"
            f"  {'left' if kill.draft_left else ''}",
            flush=True,
        )
    changed = differences(straight, killed)
    verdict = f"differs: {', '.join(changed)}" if changed else "equal"
    print(f"{len(kills)} kills, {last} steps; weights, average, optimizer and metrics: {verdict}\n")
    for kill in kills:
        yield asdict(kill) | {
            "last_step": last, "end": verdict, "threads": threads,
            "processes": many, "parallel": parallel,
        }  # fmt: skip


def main() -> None:
    """Do it for each number of threads and engine; write `benchmarks/results/kills.csv`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=1_200, help="eight for each step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="of the training")
    parser.add_argument("--processes", type=int, default=1, help="under torchrun where several")
    parser.add_argument("--parallel", nargs="+", default=["auto"], help="engines of the training")
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "kills.csv")
    parser.add_argument(harness.DIRTY, action="store_true", help="allow uncommitted changes")
    options = parser.parse_args()
    notes, rows = harness.machine(), []
    for threads, parallel in itertools.product(options.threads, options.parallel):
        with tempfile.TemporaryDirectory(prefix="convflow-kills-") as place:
            rows += [notes | row for row in measure(Path(place), options, threads, parallel)]
    fields = [*Kill.__dataclass_fields__, "last_step", "end", "processes", "parallel", *notes]
    with options.out.open("w", newline="") as file:
        table = csv.DictWriter(file, fields, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    raise SystemExit(any(row["end"] != "equal" for row in rows))


if __name__ == "__main__":
    main()
