"""`convflow export`: write the weights of a checkpoint as model folders for use."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from convflow.cli.main import Parser
from convflow.cli.options import above_zero, positive
from convflow.cli.output import plain, say
from convflow.types import InputError


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        prog="convflow export",
        usage="convflow export RUN [--out FOLDER] [--dtype D] [--merge]\n"
        "       convflow export RUN --out FOLDER --sigma-rel S [--images N]",
        description="Write the weights of a checkpoint and their average as two model folders, raw "
        "and ema, that every command reads. A run that shares its network among processes "
        "(--parallel fsdp) stores shards, which must be gathered so before use. It needs no GPU "
        "and little memory, and a training may go on meanwhile. Of a run of low-rank adapters "
        "(--lora.rank) the adapters are copied, with the network that they belong to as base. "
        "With --sigma-rel, write one model folder with the power-function average of this width, "
        "made of the snapshots of the run (--ema.snapshots).",
    )
    parser.add_argument("run", type=Path, help="run folder (its newest checkpoint) or checkpoint")
    parser.add_argument(
        "--out", type=Path, help="new folder to write to (default: the checkpoint itself)"
    )
    parser.add_argument(
        "--merge",
        action="store_true",
        help="add low-rank adapters to the weights, and write whole networks that need no peft",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="dtype of the numbers in the new folder (default: as stored); bfloat16 takes half "
        "the room of float32, and the network is float32 again when it is loaded",
    )
    parser.add_argument(
        "--sigma-rel", type=above_zero, help="relative width of a power-function average: 0.05, ..."
    )
    parser.add_argument(
        "--images",
        type=positive,
        help="images seen up to the moment of the average (default: those of the newest snapshot)",
    )
    options = parser.parse(arguments)
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
