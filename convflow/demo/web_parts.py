"""Parts of the web page that read pictures of visitors: each is checked before it is decoded."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from PIL import Image

from convflow.demo.web_words import plain
from convflow.masks import FORMATS
from convflow.types import InputError

MOST_PICTURE_SIDE = 4096
"""Pixels along a side of a picture that a visitor gives."""

MOST_LAYERS = 2
"""Of paint over a picture."""

MOST_KEPT = 64
"""Paintings that visitors have sent and not used."""


def create_editor(**options: Any) -> gr.ImageEditor:
    """Return an editor that decodes few layers of few pixels alone.

    It is no class of its own: beside those gradio writes a file of types, in the package.

    Args:
        **options: of gradio's editor.
    """
    editor = gr.ImageEditor(**options)
    decode = editor.preprocess

    def preprocess(payload: Any) -> Any:
        sent = editor.blob_storage
        while len(sent) > MOST_KEPT:
            sent.pop(next(iter(sent)))
        given = payload if payload is None or payload.id is None else sent.get(payload.id)
        with told(seconds=None):
            if given is not None:
                layers = given.layers or []
                if len(layers) > MOST_LAYERS:
                    raise InputError(
                        f"expected at most {MOST_LAYERS} layers of paint, got {len(layers)}; "
                        "paint on one"
                    )
                check_pictures([given.background, *layers, given.composite])
            with readable():
                return decode(payload)

    vars(editor)["preprocess"] = preprocess
    return editor


def create_gallery(most: int = 64, **options: Any) -> gr.Gallery:
    """Return a gallery that takes back few pictures of few pixels alone.

    Args:
        most: how many.
        **options: of gradio's gallery.
    """
    gallery = gr.Gallery(**options)
    decode = gallery.preprocess

    def preprocess(payload: Any) -> Any:
        shown = [] if payload is None else payload.root
        with told():
            if len(shown) > most:
                raise InputError(
                    f"expected at most {most} pictures, got {len(shown)}; draw some first"
                )
            if not all(hasattr(entry, "image") for entry in shown):
                raise InputError("expected pictures, got a video; draw some first")
            check_pictures(entry.image for entry in shown)
            with readable():
                return decode(payload)

    vars(gallery)["preprocess"] = preprocess
    return gallery


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
        source = file.path if hasattr(file, "path") else io.BytesIO(file)
        with readable(), Image.open(source, formats=FORMATS) as picture:
            width, height = picture.size
        if max(width, height) > MOST_PICTURE_SIDE:
            raise InputError(
                f"expected a picture of at most {MOST_PICTURE_SIDE}x{MOST_PICTURE_SIDE}, got "
                f"{height}x{width} (height x width); make it smaller"
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
def told(seconds: float | None = 10) -> Iterator[None]:
    """Show a visitor what cannot be done, in place of an error of the server.

    Args:
        seconds: that it is shown for; None = until it is closed.
    """
    try:
        yield
    except InputError as error:
        raise gr.Error(str(error), seconds, print_exception=False) from error
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error).lower():
            raise
        message = "out of memory; ask for fewer or smaller pictures"
        raise gr.Error(message, seconds, print_exception=False) from error


def reported(line: gr.Markdown, work: Iterator[dict[Any, Any]]) -> Iterator[dict[Any, Any]]:
    """Yield what some work yields, and why it ends early, which stays when the toast is gone.

    Args:
        line: of the page, that says so.
        work: yields what parts of the page show.
    """
    try:
        with told():
            yield from work
    except gr.Error as error:
        yield {line: plain(error.message)}
        raise
