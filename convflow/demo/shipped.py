"""The quick demo: one page that a shipped model draws, without any training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from convflow.data.grid import tile
from convflow.demo.page import lay_out
from convflow.pipeline import Pipeline
from convflow.shipped import SHIPPED, path
from convflow.storage import explained, writing_file
from convflow.types import Progress, Size

FIRST_ROWS, OTHER_ROWS = 2, 1
"""Of samples in the panel of the first size and in each other; a column for each class."""
SAMPLE_ZOOM = 2


def num_shown(name: str) -> int:
    """Return how many images the page of a shipped model shows."""
    model = SHIPPED[name]
    return len(model.class_names) * (FIRST_ROWS + OTHER_ROWS * (len(model.sizes) - 1))


def write_page(name: str, out: Path, *, seed: int = 0, progress: Progress | None = None) -> None:
    """Draw the page of a shipped model and write it as a PNG file.

    Args:
        name: of the model, in `convflow.shipped.SHIPPED`.
        out: the file; its folder is made.
        seed: of the samples.
        progress: called with the (fractional) number of images done since the last call.

    Raises:
        InputError: an unknown model, one without files, or no way to write.
    """
    pipe = Pipeline.from_pretrained(path(name))
    page = draw_sizes(pipe, SHIPPED[name].sizes, seed=seed, progress=progress)
    with explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with writing_file(out) as draft:
        page.save(draft, format="png")


def draw_sizes(
    pipe: Pipeline, sizes: Sequence[Size], *, seed: int = 0, progress: Progress | None = None
) -> Image.Image:
    """Return one image: a panel of samples for each size, a column for each class.

    Args:
        pipe: of a model with names of classes.
        sizes: in pixels, multiples of the model's.
        seed: of the samples.
        progress: as for `write_page`.

    Raises:
        InputError: a size that the model does not take.
    """
    columns, panels = len(pipe.class_names), list[tuple[str, Image.Image]]()
    for height, width in sizes:
        rows = OTHER_ROWS if panels else FIRST_ROWS
        pixels = pipe(
            num=rows * columns,
            size=(height, width),
            seed=seed,
            precision="auto",
            progress=progress,
        ).pixels
        title = f"{height}x{width}"
        if (height, width) == tuple(pipe.size):
            title = f"{title}, as trained: {', '.join(pipe.class_names)}"
        panels.append((title, tile(pixels, columns=columns, zoom=SAMPLE_ZOOM)))
    return lay_out(panels)
