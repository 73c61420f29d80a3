"""What networks draw at other sizes than those of training: python benchmarks/quality/sizes.py

Small networks learn `shapes` at 32x32 alone, at four of the sizes, or in buckets with ratios from
1/3 to 3, of as many pixels or of three times as many; then they are sampled at other sizes, plainly
and with a larger reach (FlowDCN) or scaled positions (SiT). FD is that of the small network of
CIFAR-10 on images brought to 32x32; `one` is the share of images with exactly one object,
`right` with the one asked for.
Writes `results/sizes.csv` and a sheet of samples for each network, `docs/images/sizes_*.png`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.harness import RESULTS
from benchmarks.quality.contest import Contender, Way, add_options, race
from benchmarks.quality.objects import score_objects
from convflow.data.grid import tile
from convflow.data.shapes import SHAPES

TRAINED = "32x32"
SIZES = (TRAINED, "48x48", "64x64", "64x32", "96x32")
NETWORKS: dict[str, tuple[str, list[str]]] = {
    "flowdcn": ("toy.shapes", []),
    "dico": ("toy.shapes_dico", []),
    "fcdm": ("toy.shapes_fcdm", []),
    "sit": ("toy.shapes_sit", []),
    "sit-rotary": ("toy.shapes_sit", ["--model.positions", "rotary"]),
}
TRAININGS = {
    "square": [],
    "buckets": ["--data.buckets", "7", "--data.ratios", "0.3333,3"],
    "sizes": ["--data.size", "32x96", "--data.sizes", "32x32,48x48,64x32,96x32"],
    "large-buckets": ["--data.size", "48x64", "--data.buckets", "7", "--data.ratios", "0.3333,3"],
}
EULER = ["--solver", "euler", "--steps", "20", "--guidance", "1", "--precision", "bfloat16"]
BLOCKS = ["--reach", "auto", "--reach-blocks"]
HELP = {
    "flowdcn": {
        "reach, blocks 2-3": [*BLOCKS, "2,3"],
        "reach, all blocks, constant": [*BLOCKS, "0,5", "--reach-form", "constant"],
    },
    "sit": {kind: ["--position-scaling", kind] for kind in ("pi", "ei")},
    "sit-rotary": {kind: ["--position-scaling", kind] for kind in ("pi", "ntk", "yarn")},
}
"""What may help away from the size of training. FlowDCN has six blocks."""


SHOWN = 4
"""Samples of each row and size on a sheet: of the first classes."""


def main() -> None:
    """Train, sample and score all, and draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, data="shapes")
    parser.set_defaults(images=[100_000], batch_size=16, num=240, draws=1, runs=Path("runs/sizes"))
    options = parser.parse_args()
    contenders = [
        Contender(f"{network}-{training}", recipe, [*words, *more], _ways(network))
        for training, more in TRAININGS.items()
        for network, (recipe, words) in NETWORKS.items()
    ]
    rows = race(contenders, [], options, "sizes", _judge)
    print(*_table(rows), sep="\n")
    for network in NETWORKS:
        _draw(network, options, RESULTS.parents[1] / f"docs/images/sizes_{network}.png")


def _ways(network: str) -> list[Way]:
    """Return how a network is sampled: plainly at all sizes, with help at the untrained ones."""
    plain = [Way("plain", EULER, size) for size in SIZES]
    return plain + [
        Way(name, [*EULER, *words], size)
        for name, words in HELP.get(network, {}).items()
        for size in SIZES
        if size != TRAINED
    ]


def _judge(samples: Path) -> dict[str, str]:
    """Count and recognise the objects of samples, whose labels are asked for in turn."""
    pixels = torch.from_numpy(np.load(samples)["arr_0"]).permute(0, 3, 1, 2)
    found = score_objects(pixels, torch.arange(len(pixels)) % len(SHAPES))
    return {"one": f"{found.one:.3f}", "right": f"{found.right:.3f}"}


def _table(rows: list[dict[str, str]]) -> list[str]:
    """Return a line for each contender and way: at each size the share `one`, and FD."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        share = f"{float(row['one']):.0%}, " if row.get("one") else ""
        cell = f"{share}{float(row['FD']):.2f}"
        lines.setdefault((row["contender"], row["way"]), {})[row["size"]] = cell
    return [
        f"| {' | '.join([*name, *(found.get(size, '') for size in SIZES)])} |"
        for name, found in lines.items()
    ]


def _draw(network: str, options: argparse.Namespace, out: Path) -> None:
    """Draw samples: a row for each training and way, a column for each size."""
    names = list(dict.fromkeys(way.name for way in _ways(network)))
    trained = [each for each in TRAININGS if (options.runs / f"{network}-{each}.0").is_dir()]
    rows = [(training, name) for training in trained for name in names]
    if not rows:
        return
    widths = [32, *(int(size.split("x")[1]) for size in SIZES)]
    figure, axes = plt.subplots(
        len(rows), len(widths), figsize=(11, 1.9 * len(rows)), width_ratios=widths, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for line, (training, name) in zip(axes, rows, strict=True):
        folder = options.runs / f"{network}-{training}.0"
        label = name.replace(", ", "\n")
        line[0].text(0, 0.5, f"trained: {training}\n{label}", va="center")
        for axis, size in zip(line[1:], SIZES, strict=True):
            samples = folder / f"{name}.{size}.{options.images[-1]}.0.npz"
            if samples.is_file():
                pixels = torch.from_numpy(np.load(samples)["arr_0"][:SHOWN]).permute(0, 3, 1, 2)
                axis.imshow(tile(pixels, columns=2, gap=1), interpolation="nearest")
    for axis, size in zip(axes[0][1:], SIZES, strict=True):
        axis.set_title(size)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.savefig(out, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
