"""`convflow import`: make a model folder of published weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from convflow.cli.main import Parser, wide
from convflow.cli.options import positive, size
from convflow.cli.output import say
from convflow.hub import WEIGHTS, is_id, missing
from convflow.types import InputError


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        prog="convflow import",
        description="Make a model folder of published weights of FlowDCN, DiCo, DiT or SiT.\n\n"
        f"WHAT is a file of weights ({', '.join(WEIGHTS)}), a folder in which diffusers has saved\n"
        "a DiT, or the name of a published checkpoint, such as dit-xl/2-256, which is downloaded.",
        usage="convflow import WHAT --out MODEL [options]",
        formatter_class=wide,
    )
    add = parser.add_argument
    add(
        "what",
        help="name of a published checkpoint, or a file or folder, here or on the Hub",
    )
    add("--out", type=Path, required=True, help="the model folder to write; it must not exist")
    add("--family", help="flowdcn, dico, dit or sit (default: that of the tensors)")
    add("--part", help="the network to take, if the file contains several: ema, model, ...")
    add("--num-heads", type=positive, help="heads of a DiT or SiT of a width that is not published")
    add("--time-spacing", type=positive, help="127 for a DiT that diffusers itself has trained")
    add("--size", type=size, help="image size, e.g. 256x256 (default: that of the weights, or 256)")
    add("--autoencoder", help="folder or Hub id of the autoencoder of its latents")
    options = vars(parser.parse(arguments))
    out, what = options.pop("out"), options.pop("what")
    del options["import"]
    if out.exists():
        raise InputError(f"--out: expected a folder that does not exist, got {out}; choose another")

    from convflow.bundle.folder import describe_codec, write_description
    from convflow.bundle.published import is_published, read_published
    from convflow.storage import writing_folder

    if not is_published(what) and (Path(what).exists() or not is_id(what)):
        if Path(what).exists():
            raise InputError(
                f"expected published weights, got {what}; give a file that ends in "
                f"{', '.join(WEIGHTS)}, or a folder in which diffusers has saved a DiT"
            )
        raise missing(what, "published weights: a file, or a name that docs/published.md lists")
    _, config, model = read_published(what, **options)
    with writing_folder(out) as draft:
        model.save_weights(draft)
        codec = describe_codec(config.codec, draft)
        write_description(draft, dataclasses.replace(config, codec=codec))
    say(f"{model.settings['family']} in {out}: convflow sample {out}")
    return 0
