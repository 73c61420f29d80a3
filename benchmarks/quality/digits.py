"""Do sampled digits show what they were asked for? A classifier trained on real digits judges.

    python benchmarks/quality/digits.py [RUN] [--num 500]

An RBF support vector machine is trained on two thirds of scikit-learn's real digits and must reach
98 % on the rest before it may judge. It then labels class-conditional samples of the run's model,
with the run's guidance and without. The samples' confusion and a CSV row are written.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

import convflow
from convflow.pipeline import Pipeline

NEEDED = 0.98
RESULTS = Path(__file__).parents[1] / "results" / "digits_quality.csv"


def train_judge() -> tuple[SVC, float]:
    """Return the classifier and its accuracy on held-out real digits."""
    digits = load_digits()
    levels = digits.data / 16
    train, test, known, wanted = train_test_split(
        levels, digits.target, test_size=1 / 3, random_state=0, stratify=digits.target
    )
    judge = SVC(kernel="rbf", C=10, gamma="scale").fit(train, known)
    return judge, judge.score(test, wanted)


def main() -> None:
    """Judge the samples of a run and print the shares of right labels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", default="runs/demo")
    parser.add_argument("--num", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    judge, accuracy = train_judge()
    print(f"judge: RBF support vector machine, {accuracy:.2%} on held-out real digits")
    if accuracy < NEEDED:
        raise SystemExit(f"the judge needs at least {NEEDED:.0%}")
    pipe = Pipeline.from_pretrained(options.run)
    rows = []
    for guidance in dict.fromkeys((pipe.sampling.guidance, 1.0)):
        out = pipe(num=options.num, guidance=guidance, seed=options.seed, batch_size=250)
        seen = judge.predict(out.pixels.flatten(1).numpy() / 255)
        asked = np.array([int(label) for label in out.labels])
        share = float((seen == asked).mean())
        worst = min(range(10), key=lambda digit: (seen == asked)[asked == digit].mean())
        worst_share = (seen == asked)[asked == worst].mean()
        print(
            f"guidance {guidance}: {share:.1%} of {options.num} samples show the digit asked for "
            f"(worst: {worst} with {worst_share:.0%})"
        )
        rows.append([guidance, options.num, f"{share:.4f}", f"{accuracy:.4f}"])
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", newline="") as file:
        writer = csv.writer(file)
        if not file.tell():
            writer.writerow(["guidance", "samples", "right", "judge", "run", "version", "commit"])
        writer.writerows([*row, options.run, convflow.__version__, commit] for row in rows)


if __name__ == "__main__":
    main()
