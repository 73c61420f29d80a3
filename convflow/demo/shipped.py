"""The quick demo: one page that the shipped models draw, without any training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from convflow.data.grid import tile
from convflow.demo.page import lay_out
from convflow.pipeline import Pipeline
from convflow.shipped import SHIPPED, ShippedModel, path
from convflow.storage import explained, writing_file
from convflow.types import Progress, size_text

FIRST_ROWS, OTHER_ROWS = 2, 1
"""Of samples in the panel of the first size and in each other; a column for each class or text."""
CELL = 64
"""Pixels of the page that a sample of the first size is high."""


def num_shown(names: Sequence[str] = tuple(SHIPPED)) -> int:
    """Return how many images the page of some shipped models shows."""
    return sum(
        len(model.columns) * (FIRST_ROWS + OTHER_ROWS * (len(model.sizes) - 1))
        for model in (SHIPPED[name] for name in names)
    )


def write_page(
    out: Path,
    names: Sequence[str] = tuple(SHIPPED),
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Draw the page of shipped models and write it as a PNG file.

    Args:
        out: the file; its folder is made.
        names: of the models, in `convflow.shipped.SHIPPED`.
        seed: of the samples.
        progress: called with the (fractional) number of images done since the last call.

    Raises:
        InputError: an unknown model, one without files, or no way to write.
    """
    folders = [path(name) for name in names]
    panels = list[tuple[str, Image.Image]]()
    for name, folder in zip(names, folders, strict=True):
        pipe = Pipeline.from_pretrained(folder)
        panels += draw_sizes(pipe, SHIPPED[name], seed=seed, progress=progress)
    page = lay_out(panels)
    with explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with writing_file(out) as draft:
        page.save(draft, format="png")


def draw_sizes(
    pipe: Pipeline, model: ShippedModel, *, seed: int = 0, progress: Progress | None = None
) -> list[tuple[str, Image.Image]]:
    """Return a titled panel of samples for each size, a column for each class or text.

    Args:
        pipe: of the model.
        model: what is known of it.
        seed: of the samples.
        progress: as for `write_page`.

    Raises:
        InputError: a size that the model does not take.
    """
    columns, panels = len(model.columns), list[tuple[str, Image.Image]]()
    for size in model.sizes:
        rows = OTHER_ROWS if panels else FIRST_ROWS
        pixels = pipe(
            num=rows * columns,
            prompts=model.prompts or None,
            size=size,
            seed=seed,
            precision="auto",
            progress=progress,
        ).pixels
        title = size_text(size) if panels else f"{size_text(size)}: {', '.join(model.columns)}"
        panels.append((title, tile(pixels, columns=columns, zoom=CELL // model.sizes[0][0])))
    return panels
