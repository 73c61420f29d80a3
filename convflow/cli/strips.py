"""Running images of `convflow sample --previews`: a strip for each, from noise to the result."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from convflow.data.grid import tile
from convflow.generate import Samples
from convflow.storage import explained, writing_file
from convflow.videos import SHEET_FRAMES, sheet

LONGEST_LABEL, LABEL_BYTES = 80, 200
"""Letters of a label or prompt in the name of a file, and bytes, of which names have 255."""


class Strips:
    """Collects running images batch by batch, and writes the strips of each when it is done.

    Tiles are those after every n-th step, after each stage of a model of scales, and after the
    last step, left to right; of a video they are rows of its frames, from top to bottom. It is
    given to `Pipeline.__call__` or `Samples.read` as `watch`.

    Args:
        folder: where the strips go, named as the images of `--single` are.
        samples: what is watched.
        name_of: from a label's number to its name.
        every: steps between two tiles; by default such that there are about eight.
        zoom: magnification; by default small images are shown larger.

    Attributes:
        steps: of which there is a tile.
    """

    def __init__(
        self,
        folder: Path,
        samples: Samples,
        name_of: Callable[[int], str],
        *,
        every: int | None = None,
        zoom: int | None = None,
    ) -> None:
        self.folder, self.samples, self.name_of = folder, samples, name_of
        self.steps = samples.preview_steps(every)
        self.zoom = zoom or max(1, 64 // max(samples.size[-2:]))
        self.tiles: list[Tensor] = []
        self.done = 0

    def __call__(self, step: int, of: int, x: Tensor) -> None:
        """Keep the running images of a batch where a tile is due; write them after its end."""
        if step in self.steps or step == of:
            self.tiles.append(self.samples.show(x))
        if step == of:
            self._write(torch.stack(self.tiles, 1))
            self.tiles = []

    def _write(self, strips: Tensor) -> None:
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        indices = range(self.done, self.done + len(strips))
        names = self.samples.names(indices, self.name_of)
        for i, label, strip in zip(indices, names, strips, strict=True):
            name = file_name(i, label, self.samples.seed)
            if strip.ndim == 5:  # a row for each step, its frames from left to right
                page = sheet(strip, num_frames=SHEET_FRAMES, zoom=self.zoom)
            else:
                page = tile(strip, columns=len(strip), zoom=self.zoom)
            with writing_file(self.folder / name) as draft:
                page.save(draft, format="png")
        self.done += len(strips)


def file_name(number: int, label: str, seed: int, ending: str = ".png") -> str:
    """Return what the file of a sample is called: its number, label and seed."""
    safe = re.sub(r"[^\w-]+", "-", label).strip("-")[:LONGEST_LABEL]
    safe = safe.encode("utf-8", "ignore")[:LABEL_BYTES].decode("utf-8", "ignore")
    return "_".join(filter(None, (f"{number:05d}", safe, f"seed{seed}"))) + ending
