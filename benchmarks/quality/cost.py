"""What does it cost to score ten thousand images with the small detector?

    python benchmarks/quality/cost.py [--data ../shared/data/cifar10]

`convflow evaluate` scores the test images of CIFAR-10 against ten thousand training images in a
process of its own; its time and peak memory stand beside those of the detector alone.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.harness import RESULTS, machine

DETECTOR = f"{Path(__file__).with_name('cifar10_network.py')}:load"
ALONE = f"""
import torch
from convflow.evaluation.detectors import open_detector
detector = open_detector({DETECTOR!r}, device=torch.device("cpu"))
detector(torch.zeros(64, 3, 32, 32, dtype=torch.uint8))
"""


def main() -> None:
    """Measure, print and write a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/cifar10"))
    parser.add_argument("--dirty", action="store_true", help="allow uncommitted changes")
    options = parser.parse_args()
    notes = machine()
    with tempfile.TemporaryDirectory() as folder:
        words = ["evaluate", str(options.data / "test.parquet"), "--split", "test"]
        words += ["--reference", str(options.data / "train.parquet"), "--reference-num", "10000"]
        words += ["--detector", DETECTOR, "--out", f"{folder}/card.json"]
        rows = [
            ["evaluate 10,000 against 10,000", *cost(["-m", "convflow", *words])],
            ["the detector alone", *cost(["-c", ALONE])],
        ]
    with (RESULTS / "evaluation_cost.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["what", "seconds", "peak_mib", *notes])
        for what, seconds, peak in rows:
            print(f"{what:32} {seconds:7.1f} s {peak:7.0f} MiB")
            table.writerow([what, f"{seconds:.1f}", f"{peak:.0f}", *notes.values()])


def cost(words: list[str]) -> tuple[float, float]:
    """Return seconds and peak MiB of `python WORDS`."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"python {' '.join(words[:3])} ... failed; see above")
    return time.perf_counter() - begun, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
