"""`convflow train`: start a run from a recipe, or go on with one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from convflow.cli.main import Parser
from convflow.cli.output import say
from convflow.types import InputError

HELP = """usage: convflow train RECIPE [--run FOLDER] [--KEY VALUE ...]
       convflow train --resume FOLDER [--KEY VALUE ...]

Train a model. The run folder (runs/RECIPE by default) gets checkpoints, metrics.jsonl, sample
grids and the complete settings. The same command again goes on where the run stopped; Ctrl-C
saves first.

recipes
{recipes}

often changed
  --data PATH              folder (with class subfolders or flat), .zip, .parquet, hf:NAME, digits,
                           shapes (drawn at any size, nothing to download)
  --data.size 64x48        height x width in pixels
  --init runs/pets         begin from the weights of a run, a checkpoint or a model folder
  --images 2000000         length of the run in images seen
  --batch-size 128         global batch, whatever the number of devices
  --micro-batch 32         most pictures at once on a device, to save memory
  --optim.lr 2e-4          learning rate
  --codec latent           in latents of an autoencoder; needs pip install convflow[diffusers]
  --process ddpm           DDPM instead of flow matching; see also --process.schedule
  --process dfm            a flow for each scale; see also --process.factors, .decomposition
  --model.width 256        any setting of the network; several numbers as --model.depths 2,4,8,4,2
  --data.on-bad skip       leave unreadable pictures out instead of stopping

convflow train RECIPE --help lists every key with its value in that recipe, or beside what else is
given: convflow train RECIPE --model.name dico --help.
On several GPUs: torchrun --nproc-per-node 8 -m -- convflow train RECIPE ..."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0 at the end of the run, 130 when it was interrupted."""
    from convflow import recipes
    from convflow.training.overrides import describe, override

    if not arguments or arguments[0] in ("-h", "--help"):
        rows = (f"  {name:22} {text}" for name, text in recipes.list_recipes().items())
        say(*HELP.format(recipes="\n".join(rows)).split("\n"))
        return 0
    parser = Parser(prog="convflow train", add_help=False, allow_abbrev=False)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("-h", "--help", action="store_true")
    words = list(arguments)
    recipe = None if words[0].startswith("-") else words.pop(0)
    options, rest = parser.parse_known_args(words)
    if (recipe is None) == (options.resume is None):
        given = "neither" if recipe is None else "both"
        raise InputError(
            f"expected first either a recipe or --resume FOLDER, got {given}; "
            "convflow train --help lists the recipes"
        )
    if recipe is not None:
        config = recipes.create_config(recipe)
    else:
        from convflow.training.launch import read_run_config

        if options.run is not None:
            raise InputError("expected --resume FOLDER or --run FOLDER, got both; drop --run")
        config = read_run_config(options.resume)
    config = override(config, rest)
    if options.help:
        say(*(f"  --{key:32} {value:18} {text}" for key, value, text in describe(config)))
        if recipe is not None and (target := recipes.find_target(recipe)):
            say("", f"target: {target}")
        return 0
    run = options.resume or options.run or Path("runs") / str(recipe)

    from convflow.training.launch import train

    return 0 if train(config, run) else 130
