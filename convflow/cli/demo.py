"""`convflow demo`: draw with the models of the package; finds the demo that is asked for."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from convflow.cli.main import Parser, wide
from convflow.cli.output import check_target, plain, say
from convflow.shipped import SHIPPED, SHIPPED_PREFIX
from convflow.types import InputError, check_name, size_text
from convflow.units import duration

DEMOS = {
    "digits": "train on handwritten digits and draw a page, in two minutes",
    "web": "draw in a browser",
}
"""Each is `main` of the module `convflow.cli.demo_NAME`."""

ABOUT_DEMO = f"""\
Draw a page of images with the models that come with convflow. No training and no download is
needed. Other demos:

{chr(10).join(f"  convflow demo {name:8} {text}" for name, text in DEMOS.items())}"""

AFTER_SHIPPED = """{page}  <- images by {models}, drawn in {spent}

Try next:
  convflow sample shipped:{named} --labels {label} --size {size} --num 8 --seed 7 --out some.png
  convflow sample shipped:{told} --prompt "{prompt}" --num 8 --seed 7 --out more.png
  convflow demo web      <- shipped:{named} in a browser
  convflow demo digits   <- train a model of your own, in two minutes
  convflow train pictures.flowdcn --data path/to/your/folder"""


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    if arguments and not arguments[0].startswith("-"):
        check_name("demo", arguments[0], DEMOS)
        return importlib.import_module(f"convflow.cli.demo_{arguments[0]}").main(arguments[1:])
    began = time.monotonic()
    parser = Parser(
        prog="convflow demo",
        usage=f"convflow demo [{' | '.join(DEMOS)}] [options]",
        description=ABOUT_DEMO,
        formatter_class=wide,
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo.png"), help=".png file (default: demo.png)"
    )
    out = parser.parse(arguments).out
    if out.suffix != ".png":
        raise InputError(f"--out: expected a .png file, got {out}; change its ending")
    check_target(out, single=False)

    from convflow.bar import Bar
    from convflow.demo.shipped import num_shown, write_page

    with Bar(total=num_shown(), unit="img", disable=not sys.stderr.isatty()) as bar:
        write_page(out, progress=bar.update)
    named = next(name for name, model in SHIPPED.items() if model.class_names)
    told = next(name for name, model in SHIPPED.items() if model.prompts)
    words = {
        "page": plain(out),
        "models": " and ".join(f"{SHIPPED_PREFIX}{name}" for name in SHIPPED),
        "spent": duration(time.monotonic() - began),
        "named": named,
        "label": SHIPPED[named].class_names[-1],
        "size": size_text(SHIPPED[named].sizes[-1]),
        "told": told,
        "prompt": SHIPPED[told].prompts[0],
    }
    say(*AFTER_SHIPPED.format(**words).split("\n"))
    return 0
