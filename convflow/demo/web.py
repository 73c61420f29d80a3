"""Serving the web page of `convflow demo web`, here and as a Space."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import gradio as gr
from gradio import processing_utils
from starlette.middleware import Middleware

from convflow.demo.request import Limits
from convflow.demo.studio import Studio
from convflow.demo.web_guard import MOST_UPLOAD_BYTES, Guard
from convflow.demo.web_page import LOOK, WebPage
from convflow.pipeline import Pipeline
from convflow.types import InputError

DOWNLOADS = (
    *("async_ssrf_protected_get", "async_ssrf_protected_download"),
    *("ssrf_protected_download", "save_url_to_cache", "unsafe_download"),
)
"""Functions of gradio that fetch an address which a visitor names."""


def serve(
    model: str,
    *,
    data: str | None = None,
    device: str = "auto",
    limits: Limits | None = None,
    host: str | None = "127.0.0.1",
    port: int | None = None,
    queue: int = 16,
    tell: Callable[[str], None] = lambda place: None,
) -> None:
    """Serve the page of a model until Ctrl-C or SIGTERM.

    Args:
        model: what `Pipeline.from_pretrained` takes.
        data: the training images; None for those of a run.
        device: "auto" takes a GPU where there is one.
        limits: that no visitor may pass.
        host: address to serve at; None for that of gradio, which a Space sets.
        port: None for the first free one.
        queue: how many visitors may wait.
        tell: told the address once it can be opened.

    Raises:
        InputError: no such model or data, or an address or port that cannot be had.
    """
    pipe = Pipeline.from_pretrained(model, device=device)
    studio = Studio(pipe, model, data, limits)
    with suppress(ValueError):  # in another thread than the first
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    with own_folder():
        blocks = WebPage(studio).blocks.queue(max_size=queue)
        try:
            launch(blocks, host, port)
            tell(blocks.local_url)
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            pass
        except OSError as error:
            raise InputError(
                f"expected an address and a port to serve at, got {host} and {port or 'any'} "
                f"({error}); choose another --port or --host"
            ) from error
        finally:
            studio.close()
            blocks.close(verbose=False)


@contextmanager
def own_folder() -> Iterator[None]:
    """Let gradio keep files in a temporary folder, which is removed in the end.

    gradio removes files alone, and leaves an empty folder for each.
    """
    usual = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="convflow-web-", ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = usual


def refuse_download(url: str, *_: Any, **__: Any) -> NoReturn:
    """Tell a visitor that the page fetches nothing, in place of gradio's downloads."""
    raise gr.Error("expected an uploaded file, got an address; upload it", print_exception=False)


def launch(blocks: gr.Blocks, host: str | None, port: int | None) -> None:
    """Begin to serve a page, in another thread, behind a `Guard`, and without downloads."""
    for name in DOWNLOADS:
        setattr(processing_utils, name, refuse_download)
    blocks.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        css=LOOK,
        footer_links=[],
        run_history=False,
        share=False,
        ssr_mode=False,
        max_file_size=MOST_UPLOAD_BYTES,
        app_kwargs={"middleware": [Middleware(Guard)]},
    )
