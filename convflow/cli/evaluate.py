"""`convflow evaluate`: score a model's samples or given images, and compare result cards."""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from convflow.cli.main import Parser, wide
from convflow.cli.options import (
    OPTIONS,
    WEIGHTS_HELP,
    above_zero,
    add_sampling_options,
    chosen_labels,
    fit_sizes,
    holds_model,
    multiples_of,
    natural,
    positive,
    sampling_options,
    sampling_settings,
    size,
    weight_set,
)
from convflow.cli.output import say
from convflow.hub import is_id, missing
from convflow.types import InputError, Progress, size_text
from convflow.units import duration

if TYPE_CHECKING:
    from convflow.data.timeline import Clips
    from convflow.evaluation.detectors import Detector
    from convflow.evaluation.evaluate import Subject, Target

log = logging.getLogger("convflow")

NUM_SAMPLES = 50_000
PROGRESS_SECONDS = 30.0

DESCRIPTION = """Score samples of a model, or given images, against real images.

WHAT is a model (a run, a checkpoint, a model folder, published weights or a Hub id), whose samples
are generated as needed; or a folder of images, a .zip, a .parquet, hf:NAME, digits, shapes (drawn
at --size), or an .npz with arr_0 (N, H, W, 3) uint8.
The result card, a .json file, contains the scores and everything they depend on. You can interrupt
the command at any time; the same command continues. On several GPUs:
torchrun --nproc-per-node 8 -m -- convflow evaluate WHAT --reference REF ..."""

EXAMPLES = """examples
  convflow evaluate path/to/train --save-statistics train-64.npz --size 64x64
  convflow evaluate runs/pets --reference train-64.npz --num 5000
  convflow evaluate samples.npz --reference VIRTUAL_imagenet256_labeled.npz
  convflow evaluate --compare scores/a.json scores/b.json"""


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    began = time.monotonic()
    options = _parser(arguments).parse(arguments)
    if options.compare:
        if options.what or options.reference:
            raise InputError("--compare: expected result cards alone, got something to score too")
        return _compare(options.compare, options.allow)
    _check(options)

    from convflow import distributed
    from convflow.cli.precision import advise
    from convflow.evaluation.detectors import open_detector
    from convflow.evaluation.evaluate import Work, evaluate, make_reference
    from convflow.evaluation.scores import METRICS

    for name in options.metrics:
        METRICS.find(name)
    device = distributed.choose_device(options.device)
    work = Work(device, options.batch_size, _progress)
    with distributed.process_group(device):
        first = distributed.rank() == 0
        with distributed.all_or_none(device):
            subject = _scored_as(_open_subject(options), options)
        origin = {"weights": options.detector_weights, "sha256": options.detector_sha256}
        for mine in (first, not first):  # the first process downloads, the others find it there
            with distributed.all_or_none(device):
                if mine:
                    detector = open_detector(options.detector, **origin, device=device)
        with distributed.all_or_none(device):
            target = options.reference and _open_target(options, subject, detector)
        try:
            if options.save_statistics:
                make_reference(subject, detector, options.save_statistics, work)
                if first:
                    counted = f"{subject.num:,} images of {size_text(subject.images.size)}"
                    say(f"statistics of {counted} in {options.save_statistics}")
                return 0
            card, path = evaluate(
                subject,
                detector,
                target,
                work,
                out=options.out,
                save_samples=options.save_samples,
                metrics=options.metrics,
            )
        except KeyboardInterrupt:
            log.info("stopped; the same command goes on from here")
            raise
        if first:
            say(*card.table().split("\n"), f"result card in {path}")
            if subject.sampling is not None:
                advise(device, options.precision, time.monotonic() - began)
    return 0


def _open_target(options: argparse.Namespace, subject: Subject, detector: Detector) -> Target:
    """Return what `--reference` names."""
    from convflow.evaluation.evaluate import open_target

    return open_target(
        options.reference,
        subject,
        detector,
        split=options.reference_split,
        image_column=options.reference_image_column or "",
        num=options.reference_num,
        clips=_clips(options),
    )


def _clips(options: argparse.Namespace) -> Clips | None:
    """Return how clips are taken from given videos, None for their own frames."""
    from convflow.data.timeline import Clips

    if options.fps is None and options.stride is None:
        return None
    return Clips(1, options.fps or 0.0, options.stride or 1)


def _scored_as(subject: Subject, options: argparse.Namespace) -> Subject:
    """Return what the detector is given: frames of videos as images, where it takes no videos."""
    from dataclasses import replace

    from convflow.evaluation.video_sets import FrameImages, scored_as

    video = len(subject.images.size) == 3
    for name in ("fps", "stride", "frames"):
        if getattr(options, name) is not None and not video:
            raise InputError(
                f"--{name}: expected videos (--size 16x64x64 for clips of files), got images; "
                "leave it out"
            )
    images = scored_as(subject.images, options.detector, options.frames)
    each = images.each if isinstance(images, FrameImages) else 1
    return replace(subject, images=images, num=subject.num * each)


def _compare(paths: Sequence[Path], allow: Sequence[str]) -> int:
    """Print the scores of cards side by side, or what they differ in where they do not compare."""
    from convflow.evaluation.card import compare_cards, contrast

    try:
        say(*compare_cards(paths, allow).split("\n"))
    except InputError:
        if table := contrast(paths, allow):
            say(*table.split("\n"))
        raise
    return 0


def _parser(arguments: Sequence[str]) -> Parser:
    parser = Parser(
        prog="convflow evaluate",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        usage="convflow evaluate WHAT --reference REF [options]\n"
        "       convflow evaluate WHAT --save-statistics REF.npz [options]\n"
        "       convflow evaluate --compare A.json B.json ...",
        formatter_class=wide,
    )
    add = parser.add_argument
    add("what", nargs="?", help="model or images to score")
    add("--reference", help="real images: any data, or an .npz of statistics (also that of ADM)")
    known = (
        "feature network: inception (default), dinov2, dinov2-8bit, X.pt2, or X.py:NAME, which "
        "runs the code in X.py"
    )
    add("--detector", default="inception", help=known)
    add("--num", type=positive, help="number of samples (default: 50000) or images (default: all)")
    known = "height x width, e.g. 48x32; of videos 16x48x32 (default: as given or trained)"
    add("--size", type=size, help=known)
    add("--seed", type=natural, help="seed of samples or of the choice of images (default: 0)")
    add("--batch-size", type=positive, default=64, help="images to process at once (default: 64)")
    add("--device", default="auto", help="device: auto (default), cpu, ...")
    results = parser.add_argument_group("results")
    results.add_argument("--out", type=Path, help="result card file (default: scores/NAME.json)")
    known = "metrics: fid,is,... or package.module:NAME (default: all that can be computed)"
    results.add_argument("--metrics", type=_words, default=(), metavar="NAMES", help=known)
    results.add_argument("--save-samples", type=Path, help="also write the images as .npz (arr_0)")
    results.add_argument("--save-statistics", type=Path, help="write a reference, not scores")
    add = parser.add_argument_group("comparing result cards").add_argument
    add("--compare", type=Path, nargs="+", metavar="CARD", help="print a table of the scores")
    add("--allow", nargs="+", default=[], metavar="KEY", help="settings that may differ")
    add = parser.add_argument_group("data and detector").add_argument
    add("--fps", type=above_zero, help="frames a second of clips (default: those of the file)")
    add("--stride", type=positive, help="steps between the frames of a clip (default: 1)")
    known = "frames of each video to score as images (default: all, or whole videos for X.pt2)"
    add("--frames", type=positive, help=known)
    add("--split", help="split of WHAT (default: train)")
    add("--image-column", help="column of images of WHAT, if a table has several")
    add("--channels", type=int, choices=(1, 3), help="channels of given images (default: 3)")
    add("--reference-split", default="train", help="split of REF (default: train)")
    add("--reference-image-column", help="column of images of REF, if a table has several")
    add("--reference-num", type=positive, help="number of images drawn from REF (default: all)")
    add("--detector-weights", help="file or URL (default: the published file)")
    add("--detector-sha256", help="SHA-256 that the weights must have; eight digits or more")
    sampling = parser.add_argument_group("sampling, for a model")
    sampling.add_argument("--weights", type=weight_set, help=WEIGHTS_HELP)
    add_sampling_options(sampling, arguments)
    return parser


def _words(text: str) -> list[str]:
    """Return the words between commas."""
    return text.split(",")


def _check(options: argparse.Namespace) -> None:
    """Raise InputError when the words do not make sense together."""
    see = "see convflow evaluate --help"
    if options.reference and _is_model(options.reference) and Path(options.reference).exists():
        raise InputError(
            f"--reference: expected real images or statistics, got the model {options.reference}"
        )
    if options.what is None:
        raise InputError(f"expected a model or images to score, got none; {see}")
    if (options.reference is None) == (options.save_statistics is None):
        given = "neither" if options.reference is None else "both"
        raise InputError(f"expected --reference or --save-statistics, got {given}; {see}")
    for name, path, ending in (
        ("out", options.out, ".json"),
        ("save-samples", options.save_samples, ".npz"),
        ("save-statistics", options.save_statistics, ".npz"),
    ):
        if path is not None and path.suffix != ending:
            raise InputError(f"--{name}: expected a {ending} file, got {path}; change its ending")
    if options.allow:
        raise InputError("--allow: expected --compare with it, got none; leave it out")
    if options.save_statistics and (options.out or options.save_samples or options.metrics):
        raise InputError(
            "--save-statistics: expected no --out, --save-samples or --metrics with it; leave "
            "them out"
        )


def _open_subject(options: argparse.Namespace) -> Subject:
    """Return the images that WHAT names: samples of a model, or given ones."""
    from convflow.evaluation.evaluate import Subject

    path, num = Path(options.what), options.num
    local = "/" in options.what and ":" not in options.what and not is_id(options.what)
    if local and not path.exists():
        raise missing(options.what, "a model or images to score")
    if _is_model(options.what):
        from convflow.pipeline import Pipeline

        for name in ("split", "image_column", "channels"):
            if getattr(options, name) is not None:
                word = name.replace("_", "-")
                raise InputError(f"--{word}: expected images to score with it, got a model")
        weights = options.weights or "ema"
        pipe = Pipeline.from_pretrained(options.what, weights=weights, device=options.device)
        labels = chosen_labels(options, pipe.class_names)
        chosen = sampling_options(options)
        if pipe.text.used and "prompts" not in chosen and labels is None:
            chosen["prompts"] = _captions_of(path)
        if options.size is not None:
            (chosen["size"],) = fit_sizes([options.size], *multiples_of(pipe, chosen))
        samples = pipe.samples(labels, **chosen)
        pipe.check_batch(samples, min(options.batch_size, num or NUM_SAMPLES))
        model = pipe.describe(path.resolve().name if path.exists() else options.what, weights)
        return Subject(samples, num or NUM_SAMPLES, model, samples.describe())

    from convflow import distributed
    from convflow.evaluation.image_sets import open_image_set
    from convflow.models.memory import check_memory

    _check_given(options)
    images = open_image_set(
        options.what,
        split=options.split or "train",
        image_column=options.image_column or "",
        size=options.size,
        channels=options.channels or 3,
        num=num,
        seed=options.seed or 0,
        clips=_clips(options),
    )
    free = distributed.free_memory(distributed.choose_device(options.device))
    each = 5 * images.channels * math.prod(images.size)  # bytes, and numbers of float32
    batch = min(options.batch_size, len(images))
    check_memory(lambda count: count * each, images.size, batch, free, "batch-size")
    return Subject(images, len(images), {"name": images.describe()["name"]})


def _check_given(options: argparse.Namespace) -> None:
    """Raise InputError for options of sampling beside images that are given."""
    of_text = ("prompt", "prompts")
    for name in ("labels", "label", *of_text, "weights", *OPTIONS, *sampling_settings()[1]):
        if getattr(options, name) is not None:
            raise InputError(
                f"--{name.replace('_', '-')}: expected a model to sample from, got the images "
                f"{options.what}; leave it out"
            )


def _captions_of(model: Path) -> list[str]:
    """Return the captions of the images that a run was trained on, in an order of seed 0.

    Raises:
        InputError: no run.
    """
    from convflow.training.captions import in_drawn_order, read_texts
    from convflow.training.shown import find_run

    if (run := find_run(model)) is None:
        raise InputError(
            f"--prompts: expected texts to draw, for {model} is no run whose captions are known, "
            "got none; add --prompts FILE"
        )
    return in_drawn_order(read_texts(run))


def _is_model(what: str) -> bool:
    """Return whether WHAT is a run, a checkpoint, a model folder, published weights or a Hub id."""
    from convflow.bundle.published import is_published

    path = Path(what)
    if is_published(what):
        return True
    if path.is_dir():
        return holds_model(path)
    return not path.exists() and is_id(what)


@contextmanager
def _progress(num: int, word: str) -> Iterator[Progress]:
    """Show how many of `num` images all processes have done, and the time left."""
    from convflow import distributed
    from convflow.bar import Bar

    if distributed.rank():
        yield lambda count: None
        return
    share = distributed.world_size()  # the others are about as far
    shown = sys.stderr.isatty()
    begun = spoken = time.monotonic()
    with Bar(total=num, desc=word, unit="img", disable=not shown) as bar:
        done = 0.0

        def tell(count: float) -> None:
            nonlocal done, spoken
            done = min(done + count * share, num)
            bar.update(int(done) - bar.n)
            if not shown and time.monotonic() > spoken + PROGRESS_SECONDS:
                spoken = time.monotonic()
                left = duration((spoken - begun) * (num - done) / done)
                log.info(f"{word}: {done:,.0f} of {num:,} images, {left} left")

        yield tell
