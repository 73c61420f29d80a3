"""Parts of the web page that read pictures of visitors: each is checked before it is decoded."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio.data_classes import FileData
from PIL import Image

from convflow.masks import FORMATS
from convflow.types import InputError

MOST_SIDE = 4096
"""Pixels along a side of a picture that a visitor gives."""

MOST_LAYERS = 2
"""Of paint over a picture."""

MOST_KEPT = 64
"""Paintings that visitors have sent and not used."""


class CheckedEditor(gr.ImageEditor):
    """An editor that decodes pictures of at most `MOST_SIDE` and `MOST_LAYERS` layers alone."""

    is_template = True  # the browser shows it as it shows its base

    def preprocess(self, payload: Any) -> Any:
        """Return the pictures that a visitor sends, or tell what is wrong with them."""
        while len(self.blob_storage) > MOST_KEPT:
            self.blob_storage.pop(next(iter(self.blob_storage)))
        given = payload
        if payload is not None and payload.id is not None:
            given = self.blob_storage.get(payload.id)
        with told():
            if given is not None:
                layers = given.layers or []
                if len(layers) > MOST_LAYERS:
                    raise InputError(
                        f"expected at most {MOST_LAYERS} layers of paint, got {len(layers)}; "
                        "paint on one"
                    )
                check_pictures([given.background, *layers, given.composite])
            with readable():
                return super().preprocess(payload)


class CheckedGallery(gr.Gallery):
    """A gallery that takes back so many pictures as it shows, of at most `MOST_SIDE`.

    Args:
        most: how many pictures it takes.
        **options: of gradio's gallery.
    """

    is_template = True

    def __init__(self, *, most: int = 64, **options: Any) -> None:
        super().__init__(**options)
        self.most = most

    def preprocess(self, payload: Any) -> Any:
        """Return the pictures that a visitor sends, or tell what is wrong with them."""
        shown = [] if payload is None else payload.root
        with told():
            if len(shown) > self.most:
                raise InputError(f"expected at most {self.most} pictures, got {len(shown)}")
            if not all(hasattr(entry, "image") for entry in shown):
                raise InputError("expected pictures, got a video; draw some first")
            check_pictures(entry.image for entry in shown)
            with readable():
                return super().preprocess(payload)


def check_pictures(files: Iterable[Any]) -> None:
    """Look at the headers of pictures.

    Args:
        files: of gradio, or their bytes; None stands for no picture.

    Raises:
        InputError: a file that is no picture, or one of too many pixels.
    """
    for file in files:
        if file is None:
            continue
        source = file.path if isinstance(file, FileData) or hasattr(file, "path") else None
        with readable(), Image.open(source or io.BytesIO(file), formats=FORMATS) as picture:
            width, height = picture.size
        if max(width, height) > MOST_SIDE:
            raise InputError(
                f"expected a picture of at most {MOST_SIDE}x{MOST_SIDE}, got {height}x{width} "
                "(height x width); make it smaller"
            )


@contextmanager
def readable() -> Iterator[None]:
    """Turn any error of a damaged picture into an InputError."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # Pillow raises nearly any
        raise InputError(
            f"expected a picture, got a file that cannot be read ({type(error).__name__}); give a "
            "PNG or JPEG file"
        ) from error


@contextmanager
def told() -> Iterator[None]:
    """Show a visitor what cannot be done, in place of an error of the server."""
    try:
        yield
    except InputError as error:
        raise gr.Error(str(error), print_exception=False) from error
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error).lower():
            raise
        message = "out of memory; ask for fewer or smaller pictures"
        raise gr.Error(message, print_exception=False) from error
