"""`convflow export`: write the weights of a checkpoint as model folders for use."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convflow.cli.main import Parser
from convflow.cli.options import above_zero, positive
from convflow.cli.output import plain, say
from convflow.types import InputError

if TYPE_CHECKING:
    from convflow.pipeline import Pipeline


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        prog="convflow export",
        usage="convflow export MODEL [--out FOLDER] [--dtype D] [--to diffusers | --merge]\n"
        "       convflow export RUN --out FOLDER --sigma-rel S [--images N]",
        description="Write the weights of a checkpoint and their average as two model folders, raw "
        "and ema, that every command reads. A run that shares its network among processes "
        "(--parallel fsdp) stores shards, which must be gathered so before use. It needs no GPU "
        "and little memory, and a training may go on meanwhile. Of a run of low-rank adapters "
        "(--lora.rank) the adapters are copied, with the network that they belong to as base. "
        "With --sigma-rel, write one model folder with the power-function average of this width, "
        "made of the snapshots of the run (--ema.snapshots). With --to, write the averaged weights "
        "of any model for another library: diffusers (a pipeline that needs no convflow) or "
        "safetensors (weights and settings alone).",
    )
    parser.add_argument(
        "run",
        type=Path,
        metavar="MODEL",
        help="run folder (its newest checkpoint) or checkpoint; with --to any model",
    )
    parser.add_argument("--to", choices=sorted(EXPORTS), help="library to write for")
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
    if options.to:
        return _export_to(options)
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


def _export_to(options: argparse.Namespace) -> int:
    """Write a model for another library."""
    if options.out is None:
        raise InputError("--to: expected --out FOLDER with it, got none; add it")
    if options.merge or options.sigma_rel or options.images or options.dtype:
        raise InputError(
            "--to: expected none of --merge, --dtype, --sigma-rel and --images with it, got one; write a "
            "model folder first, and give that"
        )

    from convflow.pipeline import Pipeline

    EXPORTS[options.to](Pipeline.from_pretrained(str(options.run), device="cpu"), options.out)
    say(f"{plain(options.out)}  <- {plain(options.run)} for {options.to}")
    return 0


def _to_diffusers(pipe: Pipeline, out: Path) -> None:
    from convflow.integrations.diffusers_folder import export_diffusers

    export_diffusers(pipe, out)


def _to_safetensors(pipe: Pipeline, out: Path) -> None:
    from convflow.integrations.movable import export_safetensors

    export_safetensors(pipe, out)


EXPORTS = {"diffusers": _to_diffusers, "safetensors": _to_safetensors}
"""What writes a model for each library."""


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
