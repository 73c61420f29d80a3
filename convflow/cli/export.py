"""`convflow export`: write a model for use, as model folders or for other programs."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

from convflow.cli.main import Parser, wide
from convflow.cli.options import WEIGHTS_HELP, above_zero, positive, weight_set
from convflow.cli.output import plain, say
from convflow.integrations.targets import EXPORT_TARGETS
from convflow.types import InputError, check_name

ABOUT = """\
Without --to, write the weights of a checkpoint and their average as two model folders, raw and
ema, that every command reads. A run that shares its network among processes (--parallel fsdp)
stores shards, which must be gathered so before use. It needs no GPU and little memory, and a
training may go on meanwhile. Of a run of low-rank adapters (--lora.rank) the adapters are copied,
with the network that they belong to as base. With --sigma-rel, write one model folder with the
power-function average of this width, made of the snapshots of the run (--ema.snapshots).

With --to, write the network for another program. For onnx, torch and web, what that program
predicts is compared with what the network predicts, at several sizes:

"""
OF_RUNS = ("merge", "sigma_rel", "images")
"""Options that mean nothing with --to."""
OF_TARGETS = ("runtime", "weights")
"""Options that mean nothing without --to."""


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse(arguments)
    if options.to is not None:
        return _export_to(options)
    for name in OF_TARGETS:
        if getattr(options, name):
            raise InputError(f"--{name}: expected --to with it, got none; add it or leave it out")
    options.run = Path(options.run)
    if options.images and not options.sigma_rel:
        raise InputError("--images: expected --sigma-rel with it, got none; leave it out")
    if options.merge and options.sigma_rel:
        raise InputError("--merge: expected none with --sigma-rel, got both; leave one of them out")
    if options.dtype and options.sigma_rel:
        raise InputError("--dtype: expected none with --sigma-rel, got both; leave one of them out")
    if options.sigma_rel:
        return _export_average(options)

    import torch

    from convflow.bundle.weights import WEIGHT_SETS, export_weights

    dtype = getattr(torch, options.dtype) if options.dtype else None
    for folder in export_weights(options.run, options.out, options.merge, dtype):
        say(f"{plain(folder)}  <- {WEIGHT_SETS[folder.name]}")
    return 0


def _parser() -> Parser:
    targets = "\n".join(f"  {name:12} {target.about}" for name, target in EXPORT_TARGETS.items())
    parser = Parser(
        prog="convflow export",
        usage="convflow export RUN [--out FOLDER] [--dtype D] [--merge]\n"
        "       convflow export RUN --out FOLDER --sigma-rel S [--images N]\n"
        "       convflow export MODEL --to TARGET --out PLACE [options]",
        description=ABOUT + targets,
        formatter_class=wide,
    )
    add = parser.add_argument
    add(
        "run",
        metavar="MODEL",
        help="run folder (its newest checkpoint) or checkpoint; with --to also a model folder, "
        "published weights or a Hub id",
    )
    add("--to", metavar="TARGET", help=f"program to write for: {', '.join(EXPORT_TARGETS)}")
    add(
        "--out",
        type=Path,
        help="new folder to write to (default: the checkpoint itself); with --to the new file or "
        "folder",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="dtype of the stored weights (default: as stored; with --to onnx, torch or web "
        "float32, or float16); bfloat16 takes half the room, and the network is float32 again "
        "when it is loaded",
    )
    add("--weights", type=weight_set, help=f"with --to: {WEIGHTS_HELP} (default: ema)")
    add(
        "--runtime",
        type=Path,
        help="with --to web: folder with the npm package onnxruntime-web (default: npm fetches it)",
    )
    add(
        "--merge",
        action="store_true",
        help="add low-rank adapters to the weights, and write whole networks that need no peft",
    )
    add(
        "--sigma-rel", type=above_zero, help="relative width of a power-function average: 0.05, ..."
    )
    add(
        "--images",
        type=positive,
        help="images seen up to the moment of the average (default: those of the newest snapshot)",
    )
    return parser


def _export_to(options: argparse.Namespace) -> int:
    """Write a model for another program."""
    check_name("target", options.to, EXPORT_TARGETS)
    target = EXPORT_TARGETS[options.to]
    if options.dtype == "bfloat16":
        raise InputError("--dtype: expected float16 or float32 with --to, got bfloat16; change it")
    given = {"half": options.dtype == "float16", "runtime": options.runtime}
    given = {name: value for name, value in given.items() if value}
    unfit = [*(n for n in OF_RUNS if getattr(options, n)), *(given.keys() - {*target.options})]
    if unfit:
        name = unfit[0].replace("_", "-").replace("half", "dtype")
        raise InputError(f"--{name}: expected none with --to {options.to}, got one; leave it out")
    if options.out is None or options.out.exists():
        got = "none" if options.out is None else f"{options.out}, which is there already"
        raise InputError(f"--out: expected a new place for --to {options.to}, got {got}; name one")

    from convflow.pipeline import Pipeline

    pipe = Pipeline.from_pretrained(options.run, weights=options.weights or "ema", device="cpu")
    place = Path(options.run)
    name = place.resolve().name if place.exists() else options.run
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter has some about itself
        for line in target.load()(pipe, options.out, name=name, **given):
            say(line)
    return 0


def _export_average(options: argparse.Namespace) -> int:
    if options.out is None:
        raise InputError("--sigma-rel: expected --out FOLDER with it, got none; add it")

    from convflow.bundle.weights import export_average

    found = export_average(options.run, options.out, options.sigma_rel, options.images)
    say(
        f"{plain(options.out)}  <- the average of sigma-rel {options.sigma_rel:g} at "
        f"{found.images:,} images, of {found.snapshots} snapshots; its shares differ by "
        f"{found.rest:.2%} from those wanted"
    )
    return 0
