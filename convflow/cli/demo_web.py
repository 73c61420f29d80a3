"""`convflow demo web`: a page in the browser that draws with a trained model."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from convflow import shipped
from convflow.cli.main import Parser, wide
from convflow.cli.options import positive, within
from convflow.cli.output import say
from convflow.types import InputError

ABOUT_PAGE = """Serve a page that draws with a trained model: class, size, solver, steps, guidance.
It shows pictures while they are made, draws parts of an image anew, and gives the command and the
Python lines that make the same pictures.

The page needs no other machine: it loads nothing from elsewhere and reports to nobody. It opens no
file of this machine to visitors. Other machines reach it with --host 0.0.0.0 alone."""


def main(arguments: Sequence[str]) -> int:
    """Serve until Ctrl-C; return the exit code."""
    options = create_parser().parse(arguments)
    if importlib.util.find_spec("gradio") is None:
        raise InputError("expected gradio for the page, found none; pip install 'convflow[web]'")
    model = shipped.called(options.model or str(shipped.path()))  # no path of this machine

    from convflow.demo.request import Limits
    from convflow.demo.web import serve

    limits = Limits(options.most, options.largest)
    serve(
        model,
        data=options.data,
        device=options.device,
        limits=limits,
        host=options.host,
        port=options.port,
        queue=options.queue,
        tell=lambda place: say(f"{place} shows {model}; Ctrl-C ends it"),
    )
    say("ended")
    return 0


def create_parser() -> Parser:
    """Return the parser of the command."""
    parser = Parser(
        prog="convflow demo web",
        description=ABOUT_PAGE,
        usage="convflow demo web [MODEL] [options]",
        formatter_class=wide,
    )
    add = parser.add_argument
    add(
        "model",
        nargs="?",
        help="run, checkpoint or model folder, published weights, or Hub id (default: "
        f"{shipped.SHIPPED_PREFIX}{next(iter(shipped.SHIPPED))}, which comes with convflow)",
    )
    add("--data", help="training images, to show the nearest (default: those of a run)")
    add("--host", default="127.0.0.1", help="address to serve at (default: 127.0.0.1)")
    add("--port", type=within(1, 65535), help="port (default: the first free one from 7860)")
    add("--queue", type=positive, default=16, help="most visitors who wait (default: 16)")
    add(
        "--most", type=within(1, 64), default=16, help="most images at once, up to 64 (default: 16)"
    )
    add("--largest", type=positive, default=1024, help="largest height or width (default: 1024)")
    add("--device", default="auto", help="device: auto (default), cpu, ...")
    return parser
