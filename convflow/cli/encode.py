"""`convflow encode`: turn images into a store of latents."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from convflow.cli.main import Parser
from convflow.cli.output import say
from convflow.types import InputError

ENCODE_HELP = """usage: convflow encode DATA --out STORE [--KEY VALUE ...]

Encode images once with an autoencoder and write the latents to the folder STORE, from which
convflow train --data STORE trains without the autoencoder. The same command continues after a kill;
no more than the running shard is lost. Before the long work, a few images are encoded and decoded
and the error is reported. convflow info STORE describes a store.

--format reads the latents of other programs in place of images, or writes those of a store in their
format, without an autoencoder: npy (features and labels of fast-DiT, DiCo, FCDM), edm (dataset.json
of EDM2, REPA), lightning (safetensors of LightningDiT), mar (moments of MAR), zarr, lmdb, or pt (a
file for each image). Name the autoencoder they come from with --codec.autoencoder.

common settings
  --data PATH              same as the argument DATA: what convflow train --data takes
  --data.size 512          height x width of the images in pixels
  --data.sizes 256x256,192x320  several sizes, each image in the one nearest to its shape
  --data.on-bad skip       leave unreadable images out instead of stopping
  --codec.autoencoder NAME  folder or Hub id of an autoencoder of diffusers, with safetensors
  --codec.precision bfloat16  arithmetic of the autoencoder
  --codec.tiling true      encode large images in tiles that overlap, which saves memory
  --records.contents mean  store no deviation; moments (mean and deviation) or sample
  --records.dtype float32  type of the numbers; float16
  --features ENCODER       also store features of an encoder, so that a training with --objectives
                           repa, irepa or u-repa need not ask it
  --captions --text.encoder NAME  also store features of the captions, by a text encoder of
                           transformers, so that a training with --text pretrained need not ask it
  --batch-size 64          images that the autoencoder is given at once
  --device cpu             device to encode on; auto uses a GPU if there is one

convflow encode DATA --help lists every key with its value.
On several GPUs: torchrun --nproc-per-node 8 -m -- convflow encode DATA --out STORE ..."""


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        say(*ENCODE_HELP.split("\n"))
        return 0
    parser = Parser(prog="convflow encode", add_help=False)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--format")
    parser.add_argument("--captions", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    words = list(arguments)
    data = [words.pop(0)] if words and not words[0].startswith("-") else []
    options, rest = parser.parse_known_args(words)

    from convflow.settings.words import help_of, parts_of, rows_of, shown_at
    from convflow.training.converting import convert
    from convflow.training.encoding import EncodeConfig, encode, override_encoding

    config = override_encoding(EncodeConfig(), [*(f"--data={path}" for path in data), *rest])
    if options.help:
        for key, hint in rows_of(EncodeConfig, parts_of(config)):
            shown = shown_at(config, key, hint)
            say(f"  --{key.replace('_', '-'):24} {shown:18} {help_of(hint)}")
        return 0
    if not data or options.out is None:
        parser.error("expected DATA first and --out STORE, got " + " ".join(arguments))
    if options.captions and not config.text.used:
        raise InputError(
            "--captions: expected --text.encoder NAME with it, got none; add it, or leave this "
            "out, for a store keeps captions in any case"
        )
    make = encode if options.format is None else partial(convert, kind=options.format)
    index = make(config, out=options.out)
    if index is None:
        say(f"wrote {options.out}")
        return 0
    say(f"{index.count:,} images in {options.out}; train with --data {options.out}")
    return 0
