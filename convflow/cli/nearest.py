"""`convflow nearest`: show samples beside the training images nearest to them."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convflow.cli.main import Parser, wide
from convflow.cli.options import (
    WEIGHTS_HELP,
    add_sampling_options,
    chosen_labels,
    fit_sizes,
    multiples_of,
    natural,
    positive,
    sampling_options,
    size,
    weight_set,
)
from convflow.cli.output import say
from convflow.types import InputError

if TYPE_CHECKING:
    import numpy as np

    from convflow.evaluation.nearest import Distance
    from convflow.evaluation.nearest_page import NearestPage
    from convflow.pipeline import Pipeline
    from convflow.training.shown import ShownImages

NUM_REFERENCES = 500
FEW_REFERENCES = 16

ABOUT_NEAREST = """Show samples of a model beside the training images nearest to them, and say
whether the model copies. The page (.html) needs no other file. An image (.png) and the numbers
(.json) lie beside it.

Distances of samples to the training images are held against those of references: of the images
that the run held back (--monitor.validation.num in training), if there are at least 16, else of
training images to the other training images. Distances are those of pixels and, with --detector,
of features too, which see copies that are moved or recoloured a little."""

NEAREST_EXAMPLES = """examples
  convflow nearest runs/pets --num 64
  convflow nearest my-model --data path/to/pets --detector dinov2 --out copies.html"""


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    options = _parser(arguments).parse(arguments)
    if options.out.suffix != ".html":
        raise InputError(f"--out: expected an .html file, got {options.out}; change its ending")
    files = (options.out, options.out.with_suffix(".png"), options.out.with_suffix(".json"))
    there = [str(path) for path in files if path.exists()]
    if there and not options.overwrite:
        raise InputError(
            f"--out: expected a page that is not there yet, got "
            f"{', '.join(there)}; add --overwrite, or choose another --out"
        )
    if options.num < 2:
        raise InputError(f"--num: expected at least 2 samples, got {options.num}; give 16")
    if not options.detector and (options.detector_weights or options.detector_sha256):
        raise InputError("--detector-weights: expected --detector with it, got none; add it")

    from convflow.evaluation.nearest import most_images
    from convflow.pipeline import Pipeline
    from convflow.training.shown import open_shown

    pipe = Pipeline.from_pretrained(options.model, weights=options.weights, device=options.device)
    if pipe.model.video:
        raise InputError(
            f"expected a model of images to compare with others, got {options.model} of videos; "
            "score videos with convflow evaluate"
        )
    chosen = sampling_options(options)
    (wanted,) = fit_sizes([chosen.pop("size", None) or pipe.size], *multiples_of(pipe, chosen))
    labels = chosen_labels(options, pipe.class_names)
    samples = pipe.samples(labels, **chosen, size=wanted)
    pipe.check_batch(samples, min(options.batch_size, options.num))
    channels: Any = samples.channels
    shown = open_shown(Path(options.model), options.data, pipe.codec, channels, wanted, pipe.device)
    if len(shown.shown) < 3:
        raise InputError(
            f"--data: expected at least 3 training images, got {len(shown.shown)} in {shown.path}; "
            "give more"
        )
    if options.num > (most := most_images(channels * math.prod(wanted))):
        raise InputError(
            f"--num: expected at most {most:,} samples of {wanted[0]}x{wanted[1]}, got "
            f"{options.num:,}; give fewer"
        )
    page = _compare(options, pipe, shown, labels, {**chosen, "size": wanted})
    say(*page.sentences(), f"{' '.join(map(str, page.write(options.out)))}")
    return 0


def _compare(
    options: argparse.Namespace,
    pipe: Pipeline,
    shown: ShownImages,
    labels: list[str] | None,
    chosen: dict[str, Any],
) -> NearestPage:
    """Return everything the page shows."""
    import torch

    from convflow.bar import Bar
    from convflow.evaluation.nearest import find_nearest, judge, near_copies
    from convflow.evaluation.nearest_page import Finding, NearestPage

    quiet = not sys.stderr.isatty()
    distances = _distances(options, pipe)
    numbers, out, words = _choose_references(options, shown)
    with Bar(total=options.num, desc="sampling", unit="img", disable=quiet) as bar:
        made = pipe(
            labels, num=options.num, batch_size=options.batch_size, progress=bar.update, **chosen
        )
    references = torch.cat(
        [shown.read(numbers[i : i + 64].tolist()) for i in range(0, len(numbers), 64)]
    )
    with Bar(total=len(shown.shown), desc="comparing", unit="img", disable=quiet) as bar:
        found = find_nearest(
            [(made.pixels, None), (references, out)],
            shown.shown,
            shown.read,
            distances,
            keep=max(2, options.neighbours),
            progress=bar.update,
        )
    comparisons = [
        Finding(distance, ours, theirs, near_copies(ours, theirs), judge(ours, theirs))
        for distance, (ours, theirs) in zip(distances, found, strict=True)
    ]
    nearest = comparisons[-1].samples
    count = min(options.neighbours, len(shown.shown))
    places = nearest.places[:, :count]
    images = torch.stack([shown.read(row) for row in places.tolist()])
    turned = nearest.mirrored[:, :count, None, None, None]
    return NearestPage(
        str(options.model),
        shown.path,
        len(shown.shown),
        words,
        comparisons,
        made.pixels,
        made.labels,
        torch.where(turned, images.flip(4), images),
        [[shown.name(place) for place in row] for row in places.tolist()],
    )


def _distances(options: argparse.Namespace, pipe: Pipeline) -> list[Distance]:
    """Return by what images are compared: pixels, then the features of a detector."""
    from convflow.evaluation.detectors import open_detector
    from convflow.evaluation.nearest import Distance, pixel_features

    distances = [Distance("pixels", "root mean square of levels, 0 to 255", pixel_features)]
    if options.detector:
        detector = open_detector(
            options.detector,
            weights=options.detector_weights,
            sha256=options.detector_sha256,
            device=pipe.device,
        )
        distances.append(
            Distance(
                f"features of {Path(options.detector).name}",
                "length of the difference",
                lambda images: detector(images)["features"].cpu(),
            )
        )
    return distances


def _choose_references(
    options: argparse.Namespace, shown: ShownImages
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Return the numbers of references, of those that are training images, and words for them."""
    from convflow.evaluation.image_sets import choose_indices
    from convflow.evaluation.nearest import most_images

    most = min(options.references, most_images(3 * math.prod(shown.size)))
    if len(shown.held) >= FEW_REFERENCES:
        chosen = choose_indices(len(shown.held), min(most, len(shown.held)), 0, shown.path)
        return shown.held[chosen], None, f"{len(chosen):,} images that the run held back"
    chosen = choose_indices(len(shown.shown), min(most, len(shown.shown)), 0, shown.path)
    numbers = shown.shown[chosen]
    return numbers, numbers, f"{len(numbers):,} training images, each beside the other ones"


def _parser(arguments: Sequence[str]) -> Parser:
    parser = Parser(
        prog="convflow nearest",
        description=ABOUT_NEAREST,
        epilog=NEAREST_EXAMPLES,
        usage="convflow nearest MODEL [--data PATH] [options]",
        formatter_class=wide,
    )
    add = parser.add_argument
    add("model", help="run, checkpoint or model folder, published weights, or Hub id")
    add("--data", help="the training images (default: those of the run)")
    add("--num", type=positive, default=16, help="number of samples (default: 16)")
    add("--neighbours", type=positive, default=3, help="training images beside each (default: 3)")
    add(
        "--references",
        type=positive,
        default=NUM_REFERENCES,
        help=f"most images that are no samples to compare with (default: {NUM_REFERENCES})",
    )
    add("--out", type=Path, default=Path("nearest.html"), help="page (default: nearest.html)")
    add("--overwrite", action="store_true", help="replace a page that is there")
    add("--size", type=size, help="height x width, e.g. 48x32 (default: as trained)")
    add("--seed", type=natural, default=0, help="sample i depends on (seed, i) alone")
    add("--weights", type=weight_set, default="ema", help=WEIGHTS_HELP)
    add("--batch-size", type=positive, default=64, help="samples to make at once (default: 64)")
    add("--device", default="auto", help="device: auto (default), cpu, ...")
    add = parser.add_argument_group("features").add_argument
    known = "feature network: inception, dinov2, X.pt2 or X.py:NAME (default: pixels alone)"
    add("--detector", help=known)
    add("--detector-weights", help="file or URL (default: the published file)")
    add("--detector-sha256", help="SHA-256 that the weights must have; eight digits or more")
    add_sampling_options(parser.add_argument_group("sampling"), arguments)
    return parser
