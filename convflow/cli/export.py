"""`convflow export`: write the weights of a checkpoint as model folders for use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from convflow.cli.main import Parser
from convflow.cli.output import plain, say


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        prog="convflow export",
        usage="convflow export RUN [--out FOLDER] [--merge]",
        description="Write the weights of a checkpoint and their average as two model folders, raw "
        "and ema, that every command reads. A run that shares its network among processes "
        "(--parallel fsdp) stores shards, which must be gathered so before use. It needs no GPU "
        "and little memory, and a training may go on meanwhile. Of a run of low-rank adapters "
        "(--lora.rank) the adapters are copied, with the network that they belong to as base.",
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
    options = parser.parse(arguments)

    from convflow.bundle.weights import WEIGHT_SETS, export_weights

    for folder in export_weights(options.run, options.out, options.merge):
        say(f"{plain(folder)}  <- {WEIGHT_SETS[folder.name]}")
    return 0
