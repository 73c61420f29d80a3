"""Rank changes of a recipe on CIFAR-10, one at a time, for four backbones and a plain U-Net.

    python -m benchmarks.quality.race [--budget small] [--data ../shared/data/cifar10]
        [--only flowdcn "flowdcn muon" ...] [--images 51200 204800] [--seeds 0 1]

The plain recipes are `cifar10.flowdcn`, `dico`, `fcdm` and `sit`, with batches of 32 and a shorter
warm-up; the U-Net of `benchmarks/quality/unet.py` takes the first. Every other contender is one of
them with one change, and is named so. All see the same images in the same order. At each number of
images, samples are scored without guidance and with two strengths of it, and the error of the
velocity is measured on test pictures. All store averages of the weights, whose cost is then in all
seconds; of the plain ones four widths are made afterwards. `results/race.csv` has a row for each
score; the table that is printed ranks the changes of each backbone at equal images and at the
seconds that its plain recipe took with the same seed. One that took less has no score there; its
last one stands behind "<=".

Budget "full" takes days. Choose with `--only`; called again, the race goes on where it stopped, and
the table holds the contenders of the last call. Budget "small" takes all of them, most with tiny
networks, through 2,048 images and 100 samples, to see that each one runs. Its numbers mean nothing,
and it writes no table. `--data hf:uoft-cs/cifar10` works too.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.quality.contest import (
    DETECTOR,
    FLOOR,
    Contender,
    Way,
    add_options,
    parts_of,
    race,
    threads_of,
)
from benchmarks.quality.held_out import QUARTERS
from benchmarks.quality.warm import run

UNET = "benchmarks.quality.unet"
SHORT = "--optim.warmup-images 1024 --data.check some"
RECIPES = {
    "flowdcn": "",
    "dico": "",
    "fcdm": "",
    "sit": "",
    "unet": f"--model.name {UNET}:UNet",
}
TINY = {
    "flowdcn": "--model.width 32 --model.depth 2 --model.num-groups 2",
    "dico": "--model.width 16 --model.depths 1,1,1,1,1",
    "fcdm": "--model.width 16 --model.depths 1,1,1,1,1",
    "sit": "--model.width 32 --model.depth 2 --model.num-heads 2",
    "unet": "--model.widths 64,64,64 --model.layers 1",
}
"""Networks of the small budget."""

AVERAGES = "--ema.sigma-rel 0.05,0.1 --ema.snapshots EIGHTH"
WIDTHS = ("0.05", "0.1", "0.15", "0.25")
"""Relative widths of the averages that are made of the plain recipes' snapshots."""

ENCODER = f"--objectives.it.encoder {DETECTOR} --objectives.it.kind"
CHANGES = {
    "logit-normal": "--process.times logit-normal",
    "logit-normal -0.5": "--process.times logit-normal --process.location -0.5",
    "logit-normal 0.5": "--process.times logit-normal --process.location 0.5",
    "shift 0.5": "--process.shift 0.5",
    "shift 2": "--process.shift 2",
    "noise": "--process.prediction noise",
    "data": "--process.prediction data",
    "data, velocity": "--process.prediction data --objectives.process.kind velocity",
    "batch 16": "--batch-size 16",
    "batch 64": "--batch-size 64",
    "rate 1e-3": "--optim.lr 1e-3",
    "rate 2e-3": "--optim.lr 2e-3",
    "batch 64, rate 2e-3": "--batch-size 64 --optim.lr 2e-3",
    "muon": "--optim.kind muon",
    "muon, rate 3e-3": "--optim.kind muon --optim.lr 3e-3",
    "wsd": "--optim.schedule wsd --optim.decay-images FIFTH",
    "momenta 0.9, 0.999": "--optim.betas 0.9,0.999",
    "no flip": "--data.flip false",
    "augment": "--data.augment 0.12",
    "repa": f"{ENCODER} repa",
    "irepa": f"{ENCODER} irepa",
    "u-repa": f"{ENCODER} u-repa",
    "sra": "--objectives.it.kind sra",
    "dispersive": "--objectives.it.kind dispersive",
    "contrastive": "--objectives.it.kind contrastive",
    "direction": "--objectives.it.kind direction",
    "dfm laplacian": "--process dfm --process.decomposition laplacian",
    "dfm dct": "--process dfm --process.decomposition dct --process.location 0.5",
    "compile": "--compile blocks",
    "float32": "--precision float32",
}
OWN = {
    "flowdcn": {
        "wide": "--model.width 256 --model.depth 5 --model.num-groups 8",
        "deep": "--model.width 128 --model.depth 18 --model.num-groups 4",
        "patch 1": "--model.patch-size 1",
        "patch 4": "--model.patch-size 4",
    },
    "dico": {
        "wide": "--model.width 80 --model.depths 1,1,2,1,1",
        "deep": "--model.width 40 --model.depths 6,6,6,6,6",
        "patch 2": "--model.layout isotropic --model.width 160 --model.depths 16",
    },
    "fcdm": {
        "wide": "--model.width 88 --model.depths 1,1,2,1,1",
        "deep": "--model.width 48 --model.depths 2,3,7,3,2",
    },
    "sit": {
        "wide": "--model.width 256 --model.depth 5 --model.num-heads 4",
        "deep": "--model.width 128 --model.depth 18 --model.num-heads 2",
        "patch 1": "--model.patch-size 1",
        "patch 4": "--model.patch-size 4",
    },
    "unet": {"compile": "--compile whole"},
}
"""Changes that depend on the network: about as many parameters, or another patch."""

NOT = {
    "flowdcn": ("u-repa",),
    "dico": (),
    "fcdm": (),
    "sit": ("u-repa",),
    "unet": (
        *("muon", "muon, rate 3e-3", "repa", "irepa", "u-repa", "sra", "dispersive"),
        *("dfm laplacian", "dfm dct"),
    ),
}
"""Changes that a network cannot take: the U-Net has no parts that the library knows."""

OF_LENGTH = ("wsd",)
SOLVER = ["--solver", "ab2", "--steps", "10", "--precision", "bfloat16", "--guidance"]
SCALES = ["--solver", "euler", "--steps", "20", "--precision", "bfloat16", "--guidance"]
GUIDED = {"guidance 1": "1", "guidance 1.5": "1.5", "guidance 2": "2"}
"""Ways of sampling, and their strengths."""
PLAIN_WAY = "guidance 1"


def contenders_of(options: argparse.Namespace) -> list[Contender]:
    """Return all contenders, the plain recipes first."""
    last, small = options.images[-1], options.budget == "small"

    def create(network: str, change: str, words: str) -> Contender:
        recipe = f"cifar10.{network if network != 'unet' else 'flowdcn'}"
        given = f"{SHORT} {RECIPES[network]} {TINY[network] if small else ''} {AVERAGES} {words}"
        given = given.replace("FIFTH", str(last // 5)).replace("EIGHTH", str(last // 8))
        solver = SCALES if "--process dfm" in words else SOLVER
        ways = [Way(name, [*solver, scale]) for name, scale in GUIDED.items()][: 1 if small else 3]
        if not change:
            ways += [Way(f"sigma {width}", [*SOLVER, "1"], sigma_rel=width) for width in WIDTHS]
        module = UNET if network == "unet" else ""
        name = f"{network} {change}".strip()
        return Contender(name, recipe, given.split(), ways, module, change in OF_LENGTH)

    plain = [create(network, "", "") for network in RECIPES]
    changed = [
        create(network, change, words)
        for network in RECIPES
        for change, words in (CHANGES | OWN[network]).items()
        if change not in NOT[network]
    ]
    return plain + changed


def look(
    options: argparse.Namespace, folder: Path, contender: Contender, images: int
) -> dict[str, str]:
    """Return the error of a training's velocity on test pictures; of DFM nothing."""
    if "dfm" in contender.options:
        return dict.fromkeys(("parameters", "error", *QUARTERS), "")
    out = folder / f"held_out.{images}.json"
    if not out.is_file():
        words = [*("--data", parts_of(options.data)[1]), *("--out", str(out))]
        words += ["--import", contender.module] if contender.module else []
        words += ["--num", "200"] if options.budget == "small" else []
        run("benchmarks.quality.held_out", str(folder), *words, threads=threads_of(options))
    return json.loads(out.read_text())


def fd_after(rows: Sequence[dict[str, str]], seconds: float) -> float:
    """Return the distance of a training at a moment, linear in log seconds between its scores.

    Args:
        rows: of one contender, seed and way.
        seconds: of training. Before the first and after the last score nothing is known: NaN.
    """
    points = sorted((float(row["seconds"]), float(row["FD"])) for row in rows)
    for (early, before), (late, after) in pairwise(points):
        if early <= seconds <= late:
            share = math.log(seconds / early) / math.log(late / early) if late > early else 1.0
            return before + (after - before) * share
    return math.nan


def fd_in_time(rows: Sequence[dict[str, str]], name: str, last: int) -> str:
    """Return the distance of a contender after its plain recipe's seconds, a mean over seeds.

    Args:
        rows: of trainings, in the plain way.
        name: of the contender.
        last: number of images after which the plain recipe's seconds count, of the same seed.
    """
    found, ended = [], False
    for seed in dict.fromkeys(row["seed"] for row in rows):
        of_seed = [row for row in rows if (row["seed"], row["draw"]) == (seed, "0")]
        plain = [row for row in of_seed if row["contender"] == name.split()[0]]
        limit = mean([float(row["seconds"]) for row in plain if row["images"] == str(last)])
        own = [row for row in of_seed if row["contender"] == name]
        end = max(own, key=lambda row: int(row["images"]), default=None)
        if end is not None and end["images"] == str(last) and float(end["seconds"]) < limit:
            ended = True
            found.append(float(end["FD"]))
        elif own:
            found.append(fd_after(own, limit))
    return "<= " * ended + shown(mean(found))


def ranking(rows: Sequence[dict[str, str]]) -> list[str]:
    """Return a table in Markdown: the contenders of each backbone, the lowest distance first.

    A distance is a mean over seeds and draws; beside it stand the smallest and the largest.
    """
    trained = [row for row in rows if row["images"]]
    last = max(int(row["images"]) for row in trained)
    ends = [row for row in trained if row["images"] == str(last)]

    def pick(name: str, column: str, way: str = PLAIN_WAY) -> list[float]:
        chosen = [row for row in ends if (row["contender"], row["way"]) == (name, way)]
        return [float(row[column]) for row in chosen if row.get(column)]

    lines: dict[str, list[tuple[float, str]]] = {network: [] for network in RECIPES}
    for name in dict.fromkeys(row["contender"] for row in ends):
        network, found = name.split()[0], pick(name, "FD")
        guided = {way: mean(pick(name, "FD", way)) for way in GUIDED}
        best = min(guided, key=lambda way: (math.isnan(guided[way]), guided[way]))
        cells = [
            name,
            f"{mean(found):.2f} ({min(found):.2f} to {max(found):.2f})",
            fd_in_time([row for row in trained if row["way"] == PLAIN_WAY], name, last),
            f"{mean(pick(name, 'seconds')):.0f}",
            f"{guided[best]:.2f} with {best.removeprefix('guidance ')}",
            shown(mean(pick(name, "error")), 4),
        ]
        lines[network].append((mean(found), f"| {' | '.join(cells)} |"))
    heads = ["", f"FD after {last:,} images", "FD after the plain recipe's seconds", "seconds",
             "FD with the best guidance", "velocity error"]  # fmt: skip
    floors = [f"| {FLOOR} | {row['FD']} | | | | |" for row in rows if row["contender"] == FLOOR]
    ranked = [line for some in lines.values() for _, line in sorted(some)]
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *ranked, *floors]


def mean(values: Sequence[float]) -> float:
    """Return the mean, NaN of none."""
    return sum(values) / len(values) if values else math.nan


def shown(value: float, digits: int = 2) -> str:
    """Return a number in words, a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def main() -> None:
    """Run the race, and print the ranking."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--budget", choices=("small", "full"), default="full")
    add_options(parser)
    parser.set_defaults(images=[51_200, 204_800], seeds=[0, 1], num=2000, draws=1)
    options = parser.parse_args()
    small = options.budget == "small"
    if small:
        options.images, options.seeds, options.num = [2048], [0], 100
        options.runs /= "small"
    found = race(
        contenders_of(options),
        [],
        options,
        None if small else "race",
        look=partial(look, options),
    )
    print("", *ranking(found), sep="\n")


if __name__ == "__main__":
    main()
