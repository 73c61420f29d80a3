"""`convflow sample`: generate images with a trained model."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convflow.cli.main import Parser, wide
from convflow.cli.options import (
    WEIGHTS_HELP,
    above_zero,
    add_sampling_options,
    chosen_labels,
    fit_sizes,
    multiples_of,
    natural,
    positive,
    sampling_options,
    sizes,
    weight_set,
)
from convflow.cli.output import check_target, say
from convflow.types import InputError, Size, size_text

if TYPE_CHECKING:
    from torch import Tensor

    from convflow.pipeline import Output


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    began = time.monotonic()
    options = _parser(arguments).parse(arguments)
    _check_previews(options)

    from convflow.bar import Bar
    from convflow.cli.precision import advise
    from convflow.cli.strips import Strips
    from convflow.pipeline import Pipeline

    pipe = Pipeline.from_pretrained(options.model, weights=options.weights, device=options.device)
    single = _check_outputs(options, pipe.model.video)
    labels = chosen_labels(options, pipe.class_names)
    given = {"image": options.image, "mask": options.mask}
    chosen = sampling_options(options) | {name: v for name, v in given.items() if v is not None}
    asked = chosen.get("prompts") or labels or ()
    num = options.num or (len(asked) if pipe.text.used and asked else max(16, len(asked)))
    wanted = fit_sizes(chosen.pop("size", None) or [pipe.size], *multiples_of(pipe, chosen))
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


def _check_previews(options: argparse.Namespace) -> None:
    """Raise InputError where running images could not be written, before a model is read."""
    if options.previews is not None:
        check_target(options.previews, True, "previews")
    elif options.preview_every is not None:
        raise InputError("--preview-every: expected --previews with it, got none; add it")


def _check_outputs(options: argparse.Namespace, video: bool) -> bool:
    """Return whether each sample gets a file of its own; raise InputError where none can be.

    Args:
        options: of the command; `out` gets its default.
        video: whether the samples are videos.
    """
    endings = (".gif", ".mp4", ".webm", ".webp", ".png") if video else (".png",)
    options.out = options.out or Path("samples" if options.single else f"samples{endings[0]}")
    if not options.single and options.out.suffix not in ("", *endings):
        wanted = f"a {' or '.join(endings)} file" if video else "a .png file"
        raise InputError(
            f"--out: expected {wanted} or a folder, got {options.out}; change its ending"
        )
    if options.rate is not None and not video:
        raise InputError("--rate: expected a model of videos with it, got one of images; drop it")
    single = options.single or options.out.suffix not in endings
    if video:
        _check_rate(options, single)
    check_target(options.out, single, cure="add --single")
    previews = options.previews
    if previews is not None and single and previews.resolve() == options.out.resolve():
        raise InputError(
            f"--previews: expected another folder than --out, got {previews} for both, where "
            "strips and images would have the same names; choose another"
        )
    return single


def _check_rate(options: argparse.Namespace, single: bool) -> None:
    """Raise InputError where videos could not be written, before any is made."""
    from convflow.videos import USUAL_RATE, find_writer

    if not single and options.out.suffix == ".png":
        if options.rate is not None:
            raise InputError(
                f"--rate: expected a file of videos such as samples.gif with it, got the sheet of "
                f"frames {options.out}; leave it out"
            )
        return
    place = options.out / "sample.gif" if single else options.out
    find_writer(place, USUAL_RATE if options.rate is None else options.rate)


def _write(made: Output, out: Path, single: bool, options: argparse.Namespace) -> None:
    """Write samples of one size as files of their own or as a grid, and say so."""
    from convflow.cli.strips import file_name
    from convflow.data.images import num_cores
    from convflow.storage import explained

    size, video = tuple(made.pixels.shape[2:]), made.pixels.ndim == 5
    with explained(out):
        (out if single else out.parent).mkdir(parents=True, exist_ok=True)
    if single:

        def write(i: int) -> None:
            name = file_name(i, made.labels[i], options.seed, ".gif" if video else ".png")
            _write_grid(made.pixels[i : i + 1], out / name, options, gap=0, zoom=1)

        with ThreadPoolExecutor(num_cores()) as pool:
            list(pool.map(write, range(len(made.images))))
    else:
        zoom = options.zoom or max(1, 64 // max(size[-2:]))
        _write_grid(made.pixels, out, options, gap=2, zoom=zoom)
    kind = ("video" if video else "image") + "s" * (len(made.images) != 1)
    say(f"{len(made.images)} {kind} of {size_text(size)} in {out}")


def _write_grid(
    pixels: Tensor, place: Path, options: argparse.Namespace, gap: int, zoom: int
) -> None:
    """Write samples side by side: images, videos, or as a .png the frames of videos."""
    from convflow.data.grid import tile
    from convflow.storage import writing_file
    from convflow.videos import USUAL_RATE, sheet, tile_videos, write_video

    layout: dict[str, Any] = {"columns": options.columns, "zoom": zoom, "gap": gap}
    if pixels.ndim == 5 and place.suffix != ".png":
        rate = USUAL_RATE if options.rate is None else options.rate
        write_video(place, tile_videos(pixels, **layout), rate)
        return
    page = sheet(pixels, zoom=zoom, gap=gap) if pixels.ndim == 5 else tile(pixels, **layout)
    with writing_file(place) as draft:
        page.save(draft, format="png")


def _parser(arguments: Sequence[str]) -> Parser:
    parser = Parser(
        prog="convflow sample",
        description="Generate images with a trained model.",
        usage="convflow sample MODEL [options]",
        formatter_class=wide,
    )
    add = parser.add_argument
    add("model", help="run, checkpoint or model folder, published weights, or Hub id")
    add(
        "--out",
        type=Path,
        help="a .png file for a grid (default: samples.png), or a folder; "
        "of videos also .gif (default: samples.gif), .mp4, .webm or .webp, where a .png is a sheet "
        "of frames",
    )
    add("--single", action="store_true", help="one file for each image, named by its label")
    add("--num", type=positive, help="number of images (default: 16)")
    add(
        "--size",
        type=sizes,
        help="height x width, or several: 32x32,64x32 (default: as trained); "
        "of videos frames x height x width: 16x32x32",
    )
    add("--rate", type=above_zero, help="frames a second in a file of videos (default: 8)")
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
    if place.suffix:
        return place.with_name(f"{place.stem}_{size_text(size)}{place.suffix}")
    return place / size_text(size)
