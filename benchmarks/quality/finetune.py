"""Fine-tuning onto other classes beside training from nothing, at equal images.

    python -m benchmarks.quality.finetune FOLDER [--before 20480] [--images 4096] [--rank 8]

Draws the six classes of `shapes` as files, trains toy.shapes on three of them, then on the other
three: from nothing, from the weights, and adapters beside the weights, whose file is measured.
Scores are Frechet distances in the features of `cifar10_network` to fresh images.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from convflow.bundle.folder import find_weights
from convflow.cli.main import main as convflow
from convflow.data.sources import open_source
from convflow.models.adapter import ADAPTER_FILE

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
    """Train four times, score three of the runs and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--before", type=int, default=20480)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--rank", type=int, default=8)
    options = parser.parse_args()
    place = options.folder
    draw(place / "train", "train", 2000)
    draw(place / "test", "test", SCORED)
    data = place / "train"
    common = ["--device", "cpu", "--monitor.tensorboard", "false", "--optim.warmup-images", 1024]
    common += ["--data.size", "32x32"]
    run("train", "toy.shapes", "--data", data / "first", "--run", place / "before",
        "--images", options.before, *common)  # fmt: skip
    weights = ["--init", place / "before"]
    adapters = [*weights, "--lora.rank", options.rank]
    for name, more in (("nothing", []), ("weights", weights), ("adapters", adapters)):
        run("train", "toy.shapes", "--data", data / "second", "--run", place / name,
            "--images", options.images, *common, *more)  # fmt: skip
        card = place / f"{name}.json"
        run("evaluate", place / name, "--reference", place / "test/second", "--num", SCORED,
            "--steps", 10, "--detector", DETECTOR, "--out", card, "--device", "cpu")  # fmt: skip
        print(name, json.loads(card.read_text())["scores"])
    adapter = find_weights(place / "adapters", "ema") / ADAPTER_FILE
    size = adapter.stat().st_size / (place / "adapters/base/model.safetensors").stat().st_size
    print(f"the adapter has {size:.1%} of the bytes of the network")


if __name__ == "__main__":
    main()
