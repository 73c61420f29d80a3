"""`convflow sample`: generate images with a trained model."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from convflow.cli.main import Parser, wide
from convflow.cli.options import (
    WEIGHTS_HELP,
    add_sampling_options,
    chosen_labels,
    fit_sizes,
    multiple_of,
    natural,
    positive,
    sampling_options,
    sizes,
    weight_set,
)
from convflow.cli.output import check_target, say
from convflow.types import InputError, Size

if TYPE_CHECKING:
    from convflow.pipeline import Output


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    began = time.monotonic()
    options = _parser(arguments).parse(arguments)
    single = _check_outputs(options)

    from convflow.bar import Bar
    from convflow.cli.precision import advise
    from convflow.cli.strips import Strips
    from convflow.pipeline import Pipeline

    pipe = Pipeline.from_pretrained(options.model, weights=options.weights, device=options.device)
    labels = chosen_labels(options, pipe.class_names)
    given = {"image": options.image, "mask": options.mask}
    chosen = sampling_options(options) | {name: v for name, v in given.items() if v is not None}
    asked = chosen.get("prompts") or labels or ()
    num = options.num or (len(asked) if pipe.text.used and asked else max(16, len(asked)))
    wanted = fit_sizes(chosen.pop("size", None) or [pipe.size], multiple_of(pipe, chosen))
    series = [pipe.samples(labels, **chosen, size=size) for size in wanted]
    for samples in series:  # all of them are checked before the first image is made
        pipe.check_batch(samples, min(options.batch_size, num))
    for size, samples in zip(wanted, series, strict=True):
        out, previews = (
            _of_size(place, size) if place is not None and len(wanted) > 1 else place
            for place in (options.out, options.previews)
        )
        watch = None
        if previews is not None:
            every, zoom = options.preview_every, options.zoom
            watch = Strips(previews, samples, pipe.name_of, every=every, zoom=zoom)
        shown = sys.stderr.isatty()
        with Bar(total=num, unit="img", disable=not shown) as bar:
            made = pipe(
                labels,
                num=num,
                batch_size=options.batch_size,
                progress=bar.update,
                watch=watch,
                size=size,
                **chosen,
            )
        _write(made, out, single, options)
        if watch is not None:
            say(f"after steps {', '.join(map(str, watch.steps))}: strips in {previews}")
    if not single:
        say(f"rows from the top left: {', '.join(dict.fromkeys(made.labels)) or 'no labels'}")
    advise(pipe.device, options.precision, time.monotonic() - began)
    return 0


def _check_outputs(options: argparse.Namespace) -> bool:
    """Return whether each image gets a file of its own; raise InputError where none can be."""
    options.out = options.out or Path("samples" if options.single else "samples.png")
    if not options.single and options.out.suffix not in ("", ".png"):
        raise InputError(
            f"--out: expected a .png file or a folder, got {options.out}; change its ending"
        )
    single = options.single or options.out.suffix != ".png"
    check_target(options.out, single, cure="add --single")
    if options.previews is not None:
        check_target(options.previews, True, "previews")
        if single and options.previews.resolve() == options.out.resolve():
            raise InputError(
                f"--previews: expected another folder than --out, got {options.previews} for both, "
                "where strips and images would have the same names; choose another"
            )
    elif options.preview_every is not None:
        raise InputError("--preview-every: expected --previews with it, got none; add it")
    return single


def _write(made: Output, out: Path, single: bool, options: argparse.Namespace) -> None:
    """Write images of one size as files of their own or as a grid, and say so."""
    from convflow.cli.strips import file_name
    from convflow.data.grid import tile
    from convflow.data.images import num_cores
    from convflow.storage import explained, writing_file

    height, width = made.pixels.shape[2:]
    with explained(out):
        (out if single else out.parent).mkdir(parents=True, exist_ok=True)
    if single:

        def write(i: int) -> None:
            with writing_file(out / file_name(i, made.labels[i], options.seed)) as draft:
                made.images[i].save(draft, format="png")

        with ThreadPoolExecutor(num_cores()) as pool:
            list(pool.map(write, range(len(made.images))))
    else:
        zoom = options.zoom or max(1, 64 // max(height, width))
        with writing_file(out) as draft:
            tile(made.pixels, columns=options.columns, zoom=zoom).save(draft, format="png")
    say(f"{len(made.images)} images of {height}x{width} in {out}")


def _parser(arguments: Sequence[str]) -> Parser:
    parser = Parser(
        prog="convflow sample",
        description="Generate images with a trained model.",
        usage="convflow sample MODEL [options]",
        formatter_class=wide,
    )
    add = parser.add_argument
    add("model", help="run, checkpoint or model folder, published weights, or Hub id")
    add("--out", type=Path, help="a .png file for a grid (default: samples.png), or a folder")
    add("--single", action="store_true", help="one file for each image, named by its label")
    add("--num", type=positive, help="number of images (default: 16)")
    add("--size", type=sizes, help="height x width, or several: 32x32,64x32 (default: as trained)")
    add("--seed", type=natural, default=0, help="image i depends on (seed, i) alone")
    add("--weights", type=weight_set, default="ema", help=WEIGHTS_HELP)
    add("--batch-size", type=positive, default=64, help="images to generate at once (default: 64)")
    add_sampling_options(parser, arguments)
    add("--image", type=Path, help="draw a part of this image anew; it is fitted to the size")
    add("--mask", type=Path, help="image as large as --image: white is drawn, black is kept")
    add("--columns", type=positive, help="number of images in a row of the grid")
    add("--zoom", type=positive, help="magnification in the grid (default: by image size)")
    previews = "also write a strip for each image, from noise to the result (default: previews)"
    add("--previews", type=Path, nargs="?", const=Path("previews"), metavar="FOLDER", help=previews)
    add("--preview-every", type=positive, help="steps between tiles (default: about 8 tiles)")
    add("--device", default="auto", help="device: auto (default), cpu, ...")
    return parser


def _of_size(place: Path, size: Size) -> Path:
    """Return where the images of one of several sizes go."""
    name = f"{size[0]}x{size[1]}"
    return place.with_name(f"{place.stem}_{name}.png") if place.suffix == ".png" else place / name
