"""One's own pictures in the time one has: `pictures` beside `pictures.flowdcn`, by the clock.

    python -m benchmarks.quality.minutes [--minutes 20] [--seeds 0 1] [--only emoji]

Both train on 32x32 pixels for the same minutes with all cores, one after the other: on emoji with
transparency, and on the pictures of CIFAR-10 as a folder of files. `pictures` has a plan, and
`pictures.flowdcn` the settings that it always had. Both draw sheets after a quarter, a half and all
of the time, with 20 steps of `ab2`. Samples are held against the training pictures at 32x32 by the
small network of CIFAR-10, with the guidance of the recipes and without. Its distances compare with
each other, never with a published FID. Writes `results/minutes.csv`, and the sheets of the first
seed to `docs/images/minutes_DATA_CONTENDER_MINUTES.png`. Run again, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.harness import RESULTS, machine, write_table
from benchmarks.quality.contest import DETECTOR, SCORES
from convflow.data.sources import open_source

CONTENDERS = {"plan": "pictures", "usual": "pictures.flowdcn"}
SIZE = ["--data.size", "32x32"]
SOLVER = ["--sampling.solver", "ab2", "--sampling.steps", "20"]
GUIDANCES = ("1.5", "1")


def main() -> None:
    """Train, score, copy the sheets and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--minutes", type=float, default=20.0, help="of each training; 1 for a check")
    add("--seeds", type=int, nargs="+", default=[0, 1])
    add("--data", type=Path, default=Path("../shared/data"), help="folder of emoji and cifar10")
    add("--only", nargs="+", choices=("emoji", "cifar10"), default=["emoji", "cifar10"])
    add("--num", type=int, default=1000, help="samples of each score")
    add("--num-pictures", type=int, default=50_000, help="of CIFAR-10, written as files")
    add("--runs", type=Path, default=Path("runs/minutes"), help="where the trainings lie")
    add("--dirty", action="store_true", help="allow uncommitted changes")
    options = parser.parse_args()
    machine()  # refuses now rather than after hours
    options.runs.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    for data in options.only:
        rows += race_on(data, options)
    counts = {"num": options.num, "num_pictures": options.num_pictures}
    write_table(RESULTS / "minutes.csv", rows, minutes=options.minutes, **counts)
    say_ratios(rows)


def race_on(data: str, options: argparse.Namespace) -> Iterator[dict[str, str]]:
    """Train all contenders on some pictures, and yield a row for each score."""
    pictures, place = options.data / "emoji" / "train.parquet", data
    if data == "cifar10":
        pictures, place = write_pictures(options), f"{data}.{options.num_pictures}"
    reference = options.runs / f"reference.{place}.npz"
    if not reference.is_file():
        convflow("evaluate", pictures, "--detector", DETECTOR, "--size", "32x32", "--split", "all",
                 "--num", min(10_000, count_of(pictures)),
                 "--save-statistics", reference)  # fmt: skip
    for seed in options.seeds:
        for name, recipe in CONTENDERS.items():
            run = options.runs / f"{place}.{name}.{options.minutes:g}.{seed}"
            seconds = train(recipe, pictures, run, seed, options.minutes)
            if seed == options.seeds[0]:
                keep_sheets(run, f"minutes_{data}_{name}", options.minutes)
            for guidance in GUIDANCES:
                card = run / f"card.{guidance}.{options.num}.json"
                if not card.is_file():
                    convflow("evaluate", run, "--reference", reference, "--detector", DETECTOR,
                             "--num", options.num, "--size", "32x32", "--guidance", guidance,
                             "--seed", "0", "--out", card)  # fmt: skip
                scores = json.loads(card.read_text())["scores"]
                found = {title.rpartition("-")[0]: value for title, value in scores.items()}
                row = {"data": data, "contender": name, "seed": str(seed), "guidance": guidance}
                row |= {"images": str(images_seen(run)), "seconds": seconds}
                row |= {title: f"{found[title]:.5g}" for title in SCORES}
                print(*row.values(), flush=True)
                yield row


def train(recipe: str, pictures: Path, run: Path, seed: int, minutes: float) -> str:
    """Train unless that was done, and return the seconds of the whole command."""
    took = run / "seconds.txt"
    if not took.is_file():
        shutil.rmtree(run, ignore_errors=True)  # of a training that did not end
        begun = time.monotonic()
        convflow("train", recipe, "--data", pictures, *SIZE, *SOLVER, "--minutes", minutes,
                 "--seed", seed, "--run", run, "--monitor.samples-minutes", minutes / 4,
                 "--monitor.samples-longest-minutes", minutes / 4)  # fmt: skip
        took.write_text(f"{time.monotonic() - begun:.1f}")
    return took.read_text()


def keep_sheets(run: Path, name: str, minutes: float) -> None:
    """Put sheets after a quarter, a half and all of the time into the docs."""
    folder, known = RESULTS.parents[1] / "docs" / "images", run / "samples"
    times = {path: path.stat().st_mtime for path in known.glob("images_*_ema.png")}
    begun = (run / "pictures.npz").stat().st_mtime
    for part in (0.25, 0.5):
        wanted = begun + 60 * minutes * part
        if times:
            nearest = min(times, key=lambda path: abs(times[path] - wanted))
            shutil.copyfile(nearest, folder / f"{name}_{part * minutes:g}.png")
    end = folder / f"{name}_{minutes:g}.png"
    end.unlink(missing_ok=True)
    convflow("sample", run, "--num", "16", "--seed", "0", "--out", end)


def write_pictures(options: argparse.Namespace) -> Path:
    """Return a folder with the training pictures of CIFAR-10 as PNG files by class."""
    folder = options.runs / f"pictures.{options.num_pictures}"
    if not folder.is_dir():
        source = open_source(str(options.data / "cifar10" / "train.parquet"))
        draft = folder.with_name(f"{folder.name}.draft")
        for index in range(min(options.num_pictures, len(source))):
            place = draft / source.class_names[source.label(index)]
            place.mkdir(parents=True, exist_ok=True)
            image = source.read(index)
            image = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
            image.save(place / f"{index}.png")
        draft.rename(folder)
    return folder


def count_of(pictures: Path) -> int:
    """Return the number of pictures in a file or folder."""
    return len(open_source(str(pictures)))


def images_seen(run: Path) -> int:
    """Return the images that a run has seen."""
    newest = max((run / "checkpoints").glob("step_*"))
    return int(json.loads((newest / "state.json").read_text())["images_seen"])


def say_ratios(rows: list[dict[str, str]]) -> None:
    """Print the distance of the plan over that of the usual recipe, seed by seed."""
    places = ("data", "seed", "guidance")
    found = {tuple(row[key] for key in (*places, "contender")): float(row["FD"]) for row in rows}
    for place in dict.fromkeys(tuple(row[key] for key in places) for row in rows):
        plan, usual = (found[*place, name] for name in CONTENDERS)
        data, seed, guidance = place
        print(f"{data}, seed {seed}, guidance {guidance}: FD {plan:.3g} / {usual:.3g} = "
              f"{plan / usual:.2f}")  # fmt: skip


def convflow(*words: object) -> None:
    """Run a command; only what goes wrong is shown."""
    call = [sys.executable, "-m", "convflow", *map(str, words)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(call[1:])}\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
