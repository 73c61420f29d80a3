"""Train recipes as a user does, and write the losses they reach where users look them up.

    python -m benchmarks.quality.reference [toy.shapes digits.flowdcn ...] [--runs runs/reference]

Each recipe is trained to its end on one thread, in float32; a run that was stopped goes on. Then
`CURVES` of its file in `convflow/recipes` and its row in `docs/recipes.md` get the losses at an
eighth, a quarter, half and all of the images. `--threads 2` changes times, and losses by rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks import harness
from convflow.recipes import ReferenceCurve, list_recipes

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/recipes.md"
RECIPES = ("toy.shapes", "digits.flowdcn")
WORDS = "--device cpu --precision float32"
PARTS = (8, 4, 2, 1)
LAST_SHARE = 5
"""The mean is that of the last of so many parts of what was seen."""
END = '"""What the recipes reached here."""\n'


def train(recipe: str, run: Path, threads: int, more: list[str]) -> None:
    """Train a recipe to its end, or go on with it."""
    words = ["train", recipe, "--run", str(run), *WORDS.split(), *more]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, "-m", "convflow", *words], env=environment, check=True)


def losses_of(run: Path) -> dict[int, float]:
    """Return the losses of a finished run by images seen, see `ReferenceCurve`."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows = [(row["images"], row["loss"]) for row in map(json.loads, lines)]
    found = {}
    for part in PARTS:
        end = max(images for images, _ in rows if images * part <= rows[-1][0])
        last = [loss for images, loss in rows if end * (1 - 1 / LAST_SHARE) < images <= end]
        found[end] = round(sum(last) / len(last), 4)
    return found


def origin_of(recipe: str, machine: dict[str, str], threads: int) -> str:
    """Return the machine and the command, in a line."""
    count = "one thread" if threads == 1 else f"{threads} threads"
    return (
        f"{machine['cpu']}, torch {machine['torch']}, {count}, revision {machine['revision']}: "
        f"convflow train {recipe} {WORDS}"
    )


def with_curve(source: str, function: str, curve: ReferenceCurve) -> str:
    """Return the text of a file of recipes in which `CURVES` has this curve."""
    losses = ", ".join(f"{images:_}: {loss}" for images, loss in curve.losses.items())
    entry = f'    "{function}": ReferenceCurve(\n        {{{losses}}},\n'
    entry += f'        "{curve.origin}",\n    ),'
    begin = re.search(r"^CURVES = \{\n(.*?)^\}\n", source, re.M | re.S)
    if begin is None:
        if "import ReferenceCurve" not in source:
            source = re.sub(
                r"^(from convflow\.(?!bundle|codecs))", r"from convflow.recipes import "
                r"ReferenceCurve\n\1", source, count=1, flags=re.M,
            )  # fmt: skip
        return f"{source}\n\nCURVES = {{\n{entry}\n}}\n{END}"
    others = re.sub(rf'^    "{function}": .*?^    \),?\n', "", begin[1], flags=re.M | re.S)
    others = re.sub(r"\)\n\Z", "),\n", others)
    return source[: begin.start(1)] + f"{others}{entry}\n" + source[begin.end(1) :]


def with_row(page: str, recipe: str, curve: ReferenceCurve) -> str:
    """Return the page of recipes in which the table of losses has the row of this curve."""
    losses = "; ".join(f"{loss:.3f} at {images:,}" for images, loss in curve.losses.items())
    row = f"| `convflow train {recipe} {WORDS}` | {losses} |"
    before = [line for line in page.splitlines() if f"| `convflow train {recipe} " in line]
    if before:
        return page.replace(before[0], row)
    head = re.search(r"^\| command \| loss at images seen \|\n\|[-|]+\|\n", page, re.M)
    assert head is not None, f"expected a table of losses in {PAGE}"
    return page[: head.end()] + f"{row}\n" + page[head.end() :]


def main() -> None:
    """Train, and write both places."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", default=[*RECIPES])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/reference")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", help="stop earlier, to see it work")
    parser.add_argument(harness.DIRTY, action="store_true")
    given = parser.parse_args()
    machine = harness.machine()
    for recipe in given.recipes:
        module, _, function = recipe.partition(".")
        if recipe not in list_recipes():
            raise SystemExit(f"expected one of {', '.join(list_recipes())}, got {recipe}")
        more = ["--images", given.images] if given.images else []
        train(recipe, given.runs / recipe, given.threads, more)
        origin = origin_of(recipe, machine, given.threads)
        curve = ReferenceCurve(losses_of(given.runs / recipe), origin)
        file = ROOT / f"convflow/recipes/{module}.py"
        file.write_text(with_curve(file.read_text(), function, curve))
        PAGE.write_text(with_row(PAGE.read_text(), recipe, curve))
        subprocess.run([sys.executable, "-m", "ruff", "format", "-q", str(file)], check=False)
        print(recipe, *(f"{loss} at {images:,}" for images, loss in curve.losses.items()))


if __name__ == "__main__":
    main()
