"""Does a damaged file of any kind that the library reads end in one line, soon, in little memory?

    python -m benchmarks.reliability.fuzz [--minutes 10] [--seed 0] [--formats card table]
    python -m benchmarks.reliability.fuzz --replay card:0:17

A small valid file of every format is damaged in a way that follows from (format, seed, case): bits
turned, bytes cut, inserted, repeated and swapped, values of JSON replaced, fields of zip files and
shapes of arrays changed. It is then read as a user's file is. Anything but a result or InputError,
more than `SECONDS` and more than `BYTES` of memory is a finding. What only remembers must not even
give an InputError. A worker reads; it is started again after a crash. Each finding goes into
`--findings` as `format:seed:case` with its reason, for `--replay`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 10.0
BYTES = 2**30
START_SECONDS = 300.0
ODD: list[Any] = [
    None, True, -1, 0, 0.5, 1e308, float("nan"), 10**9, 10**30, "", "\x1b[2J\n", "x" * 10_000,
    [], {}, [[]], [1, "a", None],
]  # fmt: skip


class Format(NamedTuple):
    """A kind of file: `make` fills a folder, `read` uses it, `files` in it are damaged."""

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    files: str
    remembers: bool = False


def formats() -> dict[str, Format]:
    """Return every format by name; a new one is a line here and two functions in `fuzz_formats`."""
    from benchmarks.reliability import fuzz_formats as f

    pictures = {
        f"folder {kind}": Format(f.folder(kind), f.read_pictures, f"*.{kind}")
        for kind in ("png", "jpg", "webp", "tiff", "bmp", "gif", "tga", "ppm", "jp2", "avif")
    }
    return pictures | {
        "zip": Format(f.make_zip, f.read_zip, "*.zip"),
        "tar": Format(f.make_tar, f.read_tar, "*.tar"),
        "npz": Format(f.make_arrays, f.read_npz, "p.npz"),
        "npy": Format(f.make_arrays, f.read_npy, "p.npy"),
        "parquet": Format(f.make_parquet, f.read_parquet, "*.parquet"),
        "dataset.json": Format(f.make_labels, f.read_pictures, "dataset.json"),
        "metadata.csv": Format(f.make_csv, f.read_pictures, "metadata.csv"),
        "metadata.jsonl": Format(f.make_jsonl, f.read_pictures, "metadata.jsonl"),
        "selection": Format(f.make_selection, f.read_selection, "pictures.npz", remembers=True),
        "look": Format(f.make_scan, f.read_scan, "look/*.npz", remembers=True),
        "model config": Format(f.make_model, f.read_model, "config.json"),
        "model weights": Format(f.make_model, f.read_model, "model.safetensors"),
        "pipeline": Format(f.make_model, f.read_pipeline, "pipeline.json"),
        "table in model": Format(f.make_table, f.read_table, "steps_2.json"),
        "run config": Format(f.make_run, f.read_run, "config.json"),
        "state": Format(f.make_run, f.read_run, "checkpoints/*/state.json"),
        "shards": Format(f.make_shards, f.read_shards, "shards/*.safetensors"),
        "metrics": Format(f.make_metrics, f.read_metrics, "metrics.jsonl", remembers=True),
        "weights": Format(f.make_weights(True), f.read_weights, "w.pt"),
        "old weights": Format(f.make_weights(False), f.read_weights, "w.pt"),
        "program": Format(f.make_program, f.read_program, "d.pt2"),
        "reference": Format(f.make_reference(False), f.read_reference, "r.npz"),
        "small reference": Format(f.make_reference(True), f.read_reference, "r.npz"),
        "samples": Format(f.make_samples(False), f.read_samples, "s.npz"),
        "small samples": Format(f.make_samples(True), f.read_samples, "s.npz"),
        "card": Format(f.make_card, f.read_card, "card.json"),
        "features": Format(f.make_features, f.read_features, "part_*.safetensors", remembers=True),
    }  # fmt: skip


def damage(content: bytes, draw: random.Random) -> bytes:
    """Return `content` with a damage that knows the format, or with one to three that do not."""
    if draw.random() < 0.6:
        for change in draw.sample([_json, _zip, _shape], 3):
            if (new := change(content, draw)) != content:
                return new
    for _ in range(draw.randint(1, 3)):
        content = draw.choice([_flip, _flip, _cut, _insert, _repeat, _swap])(content, draw)
    return content


def _flip(content: bytes, draw: random.Random) -> bytes:
    whole = bytearray(content or b"\0")
    for _ in range(draw.choice([1, 1, 8, 64])):
        whole[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
    return bytes(whole)


def _cut(content: bytes, draw: random.Random) -> bytes:
    begin = draw.randrange(len(content) + 1)
    return content[:begin] + content[begin + draw.choice([1, 16, len(content)]) :]


def _insert(content: bytes, draw: random.Random) -> bytes:
    begin = draw.randrange(len(content) + 1)
    return (
        content[:begin]
        + draw.choice([b"\0" * 64, b"[" * 5000, draw.randbytes(9)])
        + content[begin:]
    )


def _repeat(content: bytes, draw: random.Random) -> bytes:
    begin = draw.randrange(len(content) + 1)
    return content[:begin] + content[begin : begin + 99] * draw.choice([2, 50]) + content[begin:]


def _swap(content: bytes, draw: random.Random) -> bytes:
    a, b = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return content[b:] + content[a:b] + content[:a]


def _json(content: bytes, draw: random.Random) -> bytes:
    """Put an odd value into JSON, also into that before the tensors of safetensors."""
    lines = content.split(b"\n")
    place, begin = (draw.randrange(len(lines)), 0) if lines[0][-1:] == b"}" else (None, 0)
    text = content if place is None else lines[place]
    if content[8:9] == b"{" and len(content) > 8:
        begin = 8 + struct.unpack("<Q", content[:8])[0]
        text = content[8:begin]
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return content
    places = [(parent, key) for parent, key in _places(tree)]
    if not places:
        return content
    parent, key = draw.choice(places)
    if isinstance(parent, dict) and draw.random() < 0.2:
        del parent[key]
    else:
        parent[key] = draw.choice(ODD)
    new = json.dumps(tree).encode()
    if begin:
        return struct.pack("<Q", len(new)) + new + content[begin:]
    return new if place is None else b"\n".join([*lines[:place], new, *lines[place + 1 :]])


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    pairs = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, value in list(pairs):
        yield tree, key
        yield from _places(value)


def _zip(content: bytes, draw: random.Random) -> bytes:
    """Change a size, a method or an offset in a header of a zip file."""
    headers = [
        found.start() for found in re.finditer(rb"PK\x01\x02|PK\x03\x04|PK\x05\x06", content)
    ]
    if not headers:
        return content
    whole, begin = bytearray(content), draw.choice(headers)
    place = begin + draw.choice([8, 10, 16, 18, 20, 22, 24, 26, 28, 30, 42])
    new = struct.pack("<I", draw.choice([0, 1, 77, 2**16, 2**31 - 1, 2**32 - 1]))
    whole[place : place + 4] = new[: len(whole) - place]
    return bytes(whole)


def _shape(content: bytes, draw: random.Random) -> bytes:
    """Change a side or the type of an array in the header of an .npy."""
    found = [*re.finditer(rb"'shape': \(([^)]*)\)", content)]
    if not found:
        return content
    begin, end = draw.choice(found).span(1)
    new = draw.choice([b"-1,", b"0,", b"99999999999,", b"2, 2,", b"()", b"'a',"])
    return content[:begin] + new[: end - begin].ljust(end - begin) + content[end:]


def try_case(form: Format, folder: Path, draw: random.Random) -> tuple[str, str]:
    """Damage one file of a fresh folder and read it; return the kind of end, and why."""
    from convflow.types import InputError

    path = draw.choice(sorted(folder.glob(form.files)))
    path.write_bytes(damage(path.read_bytes(), draw))
    try:
        form.read(folder)
    except InputError as error:
        if form.remembers:
            return "finding", f"InputError: {error}"
        return (
            ("finding", f"lines: {error!r}") if not str(error).strip() else ("refused", str(error))
        )
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        last = traceback.extract_tb(error.__traceback__)
        ours = [line for line in last if "/convflow/" in line.filename] or last
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        return "finding", f"{type(error).__name__} in {where}: {' '.join(str(error).split())[:200]}"
    return "ok", ""


def work(seeds: Path) -> None:
    """Answer each line `format:seed:case` on standard input with a line of JSON."""
    import resource

    import torch

    torch.set_num_threads(1)
    known = formats()
    for form in known.values():  # imports and first calls take memory once
        with contextlib.suppress(Exception):
            form.read(_fresh(seeds, next(n for n, f in known.items() if f is form)))
    held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (held + BYTES, resource.RLIM_INFINITY))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        name, seed, case = line.strip().rsplit(":", 2)
        end = try_case(known[name], _fresh(seeds, name), random.Random(f"{name}:{seed}:{case}"))
        print(json.dumps(end), file=answers, flush=True)


def _fresh(seeds: Path, name: str) -> Path:
    """Return a new copy of the folder of a valid file."""
    folder = seeds.with_name("case")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(seeds / name, folder)
    return folder


class Worker:
    """The process that reads; started when it is needed."""

    def __init__(self, seeds: Path) -> None:
        self.seeds, self.process = seeds, None  # type: tuple[Path, subprocess.Popen[str] | None]

    def start(self) -> None:
        """Begin a process where there is none, and wait until it is ready."""
        if self.process is not None:
            return
        words = [sys.executable, "-m", "benchmarks.reliability.fuzz", "--work", str(self.seeds)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )
        if self._answer(START_SECONDS) != "ready\n":
            raise RuntimeError("the worker does not start; try: " + " ".join(words))

    def ask(self, case: str) -> tuple[str, str]:
        """Return how a case ends; a crash and a long wait are findings."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(f"{case}\n")
        self.process.stdin.flush()
        answer = self._answer(SECONDS)
        if answer:
            kind, reason = json.loads(answer)
            return kind, reason
        code = self.process.poll()
        self.stop()
        return "finding", f"over {SECONDS} s" if answer is None else f"crash {code}"

    def _answer(self, seconds: float) -> str | None:
        """Return the next line; "" where the process is gone and None where it takes too long."""
        assert self.process is not None
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return self.process.stdout.readline() if ready else None

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@dataclass
class Count:
    """How the cases of one format ended."""

    format: str
    cases: int = 0
    ok: int = 0
    input_errors: int = 0
    findings: int = 0
    seconds: float = 0.0
    seed: int = 0
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, case: str, kind: str, reason: str, seconds: float) -> None:
        """Count one more case."""
        self.cases, self.seconds = self.cases + 1, self.seconds + seconds
        self.ok += kind == "ok"
        self.input_errors += kind == "refused"
        self.findings += kind == "finding"
        if kind == "finding":
            self.reasons[case] = reason


def fuzz(
    names: Sequence[str], seed: int, seconds: float, most: int | None, found: Callable[[str], None]
) -> list[Count]:
    """Try case after case of every format in turn until the time or `most` cases are over."""
    known, counts = formats(), [Count(name, seed=seed) for name in names]
    with tempfile.TemporaryDirectory() as place:
        seeds, worker = Path(place) / "seeds", Worker(Path(place) / "seeds")
        for name in names:
            (seeds / name).mkdir(parents=True)
            known[name].make(seeds / name)
        begin, case = time.monotonic(), 0
        try:
            while time.monotonic() - begin < seconds and (most is None or case < most):
                for count in counts:
                    worker.start()
                    word, start = f"{count.format}:{seed}:{case}", time.monotonic()
                    kind, reason = worker.ask(word)
                    count.add(word, kind, reason, time.monotonic() - start)
                    if kind == "finding":
                        found(f"{word}\t{reason}")
                case += 1
                if case % 100 == 0:
                    print(
                        f"{case} cases of each format, {time.monotonic() - begin:.0f} s", flush=True
                    )
        finally:
            worker.stop()
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, or replay one case; returns 1 where there are findings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    add = parser.add_argument
    add("--minutes", type=float, default=10.0)
    add("--cases", type=int, help="of each format at most")
    add("--seed", type=int, default=0)
    add("--formats", nargs="+", metavar="FORMAT", help=", ".join(formats()))
    add("--replay", metavar="FORMAT:SEED:CASE", help="read one case here, with the traceback")
    add("--findings", type=Path, default=Path("fuzz-findings.txt"))
    add("--csv", type=Path, help="table to write; none by default for a part of the formats")
    add("--dirty", action="store_true", help="measure files that no revision holds")
    add("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        work(options.work)
        return 0
    if options.replay:
        return replay(options.replay)

    from benchmarks import harness

    if options.csv:
        harness.machine()  # refuses now rather than after an hour
    with options.findings.open("a", encoding="utf-8") as file:

        def found(line: str) -> None:
            print(f"FINDING {line}", flush=True)
            print(line, file=file, flush=True)

        names = options.formats or list(formats())
        counts = fuzz(names, options.seed, 60 * options.minutes, options.cases, found)
    rows = [{k: v for k, v in vars(count).items() if k != "reasons"} for count in counts]
    for row in rows:
        row["seconds"] = round(row["seconds"], 1)
        print(", ".join(f"{key} {value}" for key, value in row.items()))
    if options.csv:
        harness.write_table(options.csv, rows)
    return int(any(count.findings for count in counts))


def replay(case: str) -> int:
    """Read the damaged file of one case in this process, and show what comes of it."""
    name = case.rsplit(":", 2)[0]
    form = formats()[name]
    with tempfile.TemporaryDirectory() as place:
        form.make(Path(place))
        draw = random.Random(case)
        path = draw.choice(sorted(Path(place).glob(form.files)))
        path.write_bytes(damage(path.read_bytes(), draw))
        print(path.read_bytes()[:2000])
        form.read(Path(place))
    return 0


if __name__ == "__main__":
    sys.exit(main())
