"""The two-minute demo: train on handwritten digits, then draw one page of samples beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from convflow.data.grid import tile
from convflow.data.images import to_uint8
from convflow.data.sources import open_source
from convflow.demo.page import lay_out
from convflow.pipeline import Pipeline
from convflow.recipes.digits import flowdcn
from convflow.training.launch import train

PAGE_ROWS = 6


def run_demo(run: Path) -> Path | None:
    """Train (or go on) in `run` and draw `page.png` there, unless that has been done.

    Returns:
        The page, or None when training was interrupted.
    """
    page = run / "page.png"
    if page.is_file():
        return page
    if not train(flowdcn(), run):
        return None
    draw_page(Pipeline.from_pretrained(run)).save(page)
    return page


def draw_page(pipe: Pipeline) -> Image.Image:
    """Return one image: samples as trained, larger and as rectangles, and real digits."""
    height, width = pipe.size
    reach = float(pipe.model.settings["reach"])
    larger = (height + 2, width + 2)
    taller = (height + 4, width)
    wider_reach = (reach * larger[1] / width, reach * larger[0] / height)
    taller_reach = (reach, reach * taller[0] / height)
    names = f"asked for {pipe.class_names[0]} to {pipe.class_names[-1]}"
    panels = [
        (f"Generated at the trained size, {height}x{width}; columns {names}", _samples(pipe)),
        ("Real digits", _real_digits()),
        (
            f"Generated larger, {larger[0]}x{larger[1]}, reach scaled along",
            _samples(pipe, size=larger, reach=wider_reach),
        ),
        (
            f"Generated as rectangles, {taller[0]}x{taller[1]}, reach scaled along",
            _samples(pipe, size=taller, reach=taller_reach),
        ),
    ]
    return lay_out([(title, tile(pixels, columns=10, zoom=5)) for title, pixels in panels])


def _samples(pipe: Pipeline, **options: object) -> UInt8[Tensor, "N C H W"]:
    return pipe(num=10 * PAGE_ROWS, precision="auto", **options).pixels  # type: ignore[arg-type]


def _real_digits() -> UInt8[Tensor, "N C H W"]:
    source = open_source("digits")
    labels = np.array([source.label(i) for i in range(len(source))])
    rows = [np.flatnonzero(labels == digit)[:PAGE_ROWS] for digit in range(10)]
    images = [to_uint8(source.read(int(i)), 1) for i in np.stack(rows, axis=1).flatten()]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
