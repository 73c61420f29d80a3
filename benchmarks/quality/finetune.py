"""Fine-tuning onto other classes beside training from nothing, at equal images.

    python -m benchmarks.quality.finetune FOLDER [--before 20480] [--images 4096]

Draws the six classes of `shapes` as files, trains toy.shapes on three of them, then both ways on
the other three. Scores are Frechet distances in the features of `cifar10_network` to fresh images.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from convflow.cli.main import main as convflow
from convflow.data.sources import open_source

CLASSES = 3
DETECTOR = str(Path(__file__).with_name("cifar10_network.py")) + ":load"
SCORED = 2000


def draw(folder: Path, split: str, count: int) -> None:
    """Write `count` images of each half of the classes, in folders `first` and `second`."""
    source, done = open_source("shapes", split), {"first": 0, "second": 0}
    for i in range(len(source)):
        if all(number >= count for number in done.values()):
            return
        label = int(source.label(i))
        half = "first" if label < CLASSES else "second"
        if done[half] < count:
            place = folder / half / source.class_names[label]
            place.mkdir(parents=True, exist_ok=True)
            source.draw(i, (32, 32)).save(place / f"{i}.png")
            done[half] += 1


def run(*words: object) -> None:
    """Run a command of convflow, which must end well."""
    if convflow([str(word) for word in words]):
        raise SystemExit(f"failed: {words}")


def main() -> None:
    """Train three times, score twice and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--before", type=int, default=20480)
    parser.add_argument("--images", type=int, default=4096)
    options = parser.parse_args()
    place = options.folder
    draw(place / "train", "train", 2000)
    draw(place / "test", "test", SCORED)
    data = place / "train"
    common = ["--device", "cpu", "--monitor.tensorboard", "false", "--optim.warmup-images", 1024]
    common += ["--data.size", "32x32"]
    run("train", "toy.shapes", "--data", data / "first", "--run", place / "before",
        "--images", options.before, *common)  # fmt: skip
    for name, more in (("nothing", []), ("weights", ["--init", place / "before"])):
        run("train", "toy.shapes", "--data", data / "second", "--run", place / name,
            "--images", options.images, *common, *more)  # fmt: skip
        card = place / f"{name}.json"
        run("evaluate", place / name, "--reference", place / "test/second", "--num", SCORED,
            "--steps", 10, "--detector", DETECTOR, "--out", card, "--device", "cpu")  # fmt: skip
        print(name, json.loads(card.read_text())["scores"])


if __name__ == "__main__":
    main()
