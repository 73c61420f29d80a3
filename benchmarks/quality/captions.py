"""Whether samples show what their texts say: python -m benchmarks.quality.captions MODEL FOLDER

FOLDER has training pictures and `metadata.jsonl` with a caption each; those of the shape of the
model's samples are taken. One sample is drawn of each of some captions, spread evenly. All pictures
of the folder are then sorted by their distance to the sample, at 16 pixels a side: `first` is the
share of samples whose nearest picture has the caption that was asked for, `ten` that of those which
have it among the nearest ten, `rank` the median place of that picture. The last row asks for the
caption of the next sample, which is often of a similar thing. A network that copies its training
pictures scores best: this measures whether texts are understood, not whether samples are new.
Writes `results/captions.csv`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.harness import DIRTY, RESULTS, machine, write_table
from convflow.pipeline import Pipeline

SIDE = 16
"""Pixels to which samples and pictures are brought before they are compared."""


def main() -> None:
    """Draw, compare, print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("model", help="model, run or checkpoint")
    add("folder", type=Path, help="pictures with metadata.jsonl")
    add("--num", type=int, default=200, help="captions that are asked for (default: 200)")
    add("--guidance", type=float, nargs="+", default=[1.0, 2.0], help="scales of guidance")
    add("--seed", type=int, default=0, help="of the samples")
    add("--precision", default="auto", help="arithmetic of the network")
    add(DIRTY, action="store_true", help="allow numbers that no revision can repeat")
    options = parser.parse_args()
    machine()  # refuses now rather than after minutes
    pipe = Pipeline.from_pretrained(options.model)
    captions, pictures = read(options.folder, pipe.size)
    asked = np.linspace(0, len(captions) - 1, options.num).round().astype(int).tolist()
    rows = []
    for scale in options.guidance:
        samples = pipe(
            prompts=[captions[i] for i in asked],
            guidance=scale,
            seed=options.seed,
            precision=options.precision,
        ).pixels
        found = places(reduce(samples), pictures, captions, asked)
        rows.append({"samples": "asked", "guidance": f"{scale:g}", **shares(found)})
        print(rows[-1], flush=True)
    found = places(reduce(samples), pictures, captions, [*asked[1:], asked[0]])
    rows.append({"samples": "of the next text", "guidance": f"{scale:g}", **shares(found)})
    print(rows[-1])
    counts = {"num": options.num, "pictures": len(captions)}
    write_table(RESULTS / "captions.csv", rows, model=options.model, **counts)


def read(folder: Path, size: Sequence[int]) -> tuple[list[str], Tensor]:
    """Return captions, and their pictures as (N, 3, SIDE, SIDE), of one shape."""
    captions, pictures = list[str](), list[Tensor]()
    for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        with Image.open(folder / row["file_name"]) as image:
            if image.width * size[0] == image.height * size[1]:
                captions.append(row["caption"])
                pixels = np.asarray(image.convert("RGB").resize((size[1], size[0])))
                pictures.append(reduce(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]))
    return captions, torch.cat(pictures)


def reduce(pixels: Tensor) -> Tensor:
    """Return images (N, 3, H, W) as means over cells, (N, 3, SIDE, SIDE)."""
    return F.adaptive_avg_pool2d(pixels.float(), SIDE)


def places(
    samples: Tensor, pictures: Tensor, captions: Sequence[str], asked: Sequence[int]
) -> list[int]:
    """Return how many pictures are nearer to each sample than the nearest with its caption.

    Args:
        samples: (M, 3, SIDE, SIDE).
        pictures: (N, 3, SIDE, SIDE).
        captions: of the pictures.
        asked: of each sample, the number of a picture with its caption.
    """
    apart = torch.cdist(samples.flatten(1), pictures.flatten(1))
    found = list[int]()
    for row, number in zip(apart, asked, strict=True):
        own = [i for i, caption in enumerate(captions) if caption == captions[number]]
        found.append(int((row < row[own].min()).sum()))
    return found


def shares(found: Sequence[int]) -> dict[str, str]:
    """Return the columns of a row."""
    at = np.asarray(found)
    return {
        "first": f"{(at == 0).mean():.3f}",
        "ten": f"{(at < 10).mean():.3f}",
        "rank": f"{np.median(at) + 1:g}",
    }


if __name__ == "__main__":
    main()
