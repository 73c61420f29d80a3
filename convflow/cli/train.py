"""`convflow train`: start a run from a recipe, or go on with one."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convflow.cli.main import Parser
from convflow.cli.options import above_zero, word_after
from convflow.cli.output import say
from convflow.types import InputError

if TYPE_CHECKING:
    from convflow.training.config import TrainConfig

PLANNED = "pictures"
"""The recipe that is no function of the package: a plan of data, machine and time."""

HELP = """usage: convflow train RECIPE [--run FOLDER] [--KEY VALUE ...]
       convflow train pictures --data PATH --minutes 20 [--KEY VALUE ...]
       convflow train --resume FOLDER [--KEY VALUE ...]
       convflow train --init FOLDER --run FOLDER [--KEY VALUE ...]

Train a model. The run folder (runs/RECIPE by default) contains checkpoints, metrics.jsonl, sample
grids and the complete settings. Ctrl-C saves the run. The same command continues it. With --init
and no recipe, a new run starts with the settings and the weights of the run that --init names.

recipes
  pictures               Your own images in the time that you have (--minutes 20): looks at them,
                         measures this machine, says which network, size, batch and length it
                         chooses, and trains. Any option replaces a choice. The same command goes
                         on with the run, and more minutes make it longer.
{recipes}

common settings
  --data PATH              images: a folder (with class subfolders or flat), .zip, .tar or shards of
                           WebDataset, .parquet, hf:NAME, .npz, .npy, a .csv or .jsonl that names
                           files, digits, or shapes or moving (images or videos that are drawn at
                           any size, no download); with a size of three sides a folder of videos
  --data.split train       split of the data: train, validation, test, unlabeled, or all (which
                           merges all but unlabeled); found by names of folders or files, or in a
                           column of a table
  --data.labels auto       source of the classes: auto (a table if there is one, else folders),
                           table (dataset.json, metadata.csv or a column), folders,
                           names (cat_0.png) or none (no classes)
  --data.label-column kind column of labels, if a table has several
  --data.image-column img  column of images, if a table has several
  --data.caption-column c  column of captions, which a store of latents keeps
  --data.size 64x48        image size: height x width in pixels; of videos 16x64x48, frames first
  --data.fps 8             frames a second that videos of files are brought to first
  --data.on-bad skip       leave unreadable images out instead of stopping
  --data.check all         decode every image before the first step, however many there are
  --data.workers 8         threads that decode images; auto is one for each core
  --data.draft true        decode large JPEGs at a part of their size, which is faster
  --init runs/pets         start from a run, a checkpoint, a model folder, or published weights (a
                           file or dit-xl/2-256), with their network, process and codec
  --init-partial true      take only the weights that fit, also those of another process
  --freeze 'embed*'        parameters that stay as they are, by patterns of names
  --lora.rank 8            train low-rank adapters in place of the network (needs convflow[lora])
  --images 2000000         length of the run as a number of images
  --epochs 3               length of the run as passes over the data, instead of --images
  --minutes 20             save and end after this time from now on, or at the full length if that
                           is earlier. With the recipe pictures it is the time of the whole run.
  --batch-size 128         global batch size, for any number of devices
  --micro-batch 32         largest batch on a device at once; a small one saves memory
  --memory.recompute blocks  saves memory: the backward pass computes the results of all blocks
                           (or of every other one: every-2) a second time
  --optim.lr 2e-4          learning rate
  --optim.layer-decay 0.9  factor on the learning rate for each block further from the head
  --optim.kind muon        optimizer: adamw, muon, or package.module:Name
  --optim.schedule cosine  learning rate over the run: constant, linear, cosine or wsd
  --device cpu             device to train on; auto uses a GPU if there is one
  --compile blocks         torch.compile of the network: off, blocks or whole; needs a compiler
  --precision float32      arithmetic of the network; auto uses bfloat16 where it is fast
  --codec latent           train in latents of an autoencoder (needs convflow[diffusers])
  --text words             train on captions, read by a small reader trained with the network
  --text.encoder NAME      train on captions, read by a frozen text encoder of transformers: a
                           folder or a Hub id (needs convflow[text])
  --model.cross-attention 2  let every second block attend to the tokens of a caption
  --process ddpm           use DDPM instead of flow matching; see also --process.schedule
  --process meanflow       train average velocities, for images in one or two steps; see also
                           --process.guidance, --process.mixture and --process.tangent
  --process dfm            use one flow for each scale; see also --process.factors and
                           --process.decomposition, and of videos --process.axes
  --import my.module       import a module of yours first, so that names stored in files are found
  --objectives.NAME.kind K add a loss: repa, irepa, u-repa, sra, dispersive, contrastive, direction,
                           or class C of your module M as M:C; .weight is its factor, .until the
                           images seen after which it ends; with --help, all its settings are listed
  --monitor.validation 500  hold 500 images back and measure their loss
  --monitor.score PATH     score samples now and then against real images or statistics
  --monitor.logger wandb   also send the metrics to wandb, trackio, or class C of a module M of
                           yours, M:C
  --model.temporal conv    a network of videos: conv, or of dit and sit factorised or full
  --model.width 256        any setting of the network; give a list as --model.depths 2,4,8,4,2

convflow train RECIPE --help lists every key with its value in that recipe. With other settings
before --help, it lists the values that result: convflow train RECIPE --model.name dico --help.
On several GPUs: torchrun --nproc-per-node 8 -m -- convflow train RECIPE ..."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0 at the end of the run, 130 when it was interrupted."""
    began = time.monotonic()
    from convflow import recipes

    if not arguments or arguments[0] in ("-h", "--help"):
        rows = (f"  {name:22} {text}" for name, text in recipes.list_recipes().items())
        say(*HELP.format(recipes="\n".join(rows)).split("\n"))
        return 0
    parser = Parser(prog="convflow train", add_help=False)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--epochs", type=above_zero)
    parser.add_argument("--minutes", type=above_zero)
    parser.add_argument("-h", "--help", action="store_true")
    words = list(arguments)
    recipe = None if words[0].startswith("-") else words.pop(0)
    options, rest = parser.parse_known_args(words)
    if options.epochs is not None and word_after("--images", rest) is not None:
        raise InputError("expected --epochs or --images, got both; drop one of them")
    from convflow.training.overrides import describe_options, override

    if recipe == PLANNED and not options.help:
        return _train_planned(options, rest, began)
    config = override(_settings(recipe, options, rest), rest)
    if options.help:
        say(*(f"  --{key:32} {value:18} {text}" for key, value, text in describe_options(config)))
        if recipe == PLANNED:
            say("", "the values above are usual ones: a plan chooses those that are not given")
        elif recipe is not None and (target := recipes.find_target(recipe)):
            say("", f"target: {target}")
        return 0
    run = options.resume or options.run or Path("runs") / str(recipe)

    from convflow.bench.utilisation import product_rate
    from convflow.training.launch import train

    length = {"epochs": options.epochs, "minutes": options.minutes}
    return 0 if train(config, run, **length, product_rate=product_rate) else 130


def _train_planned(options: argparse.Namespace, rest: Sequence[str], began: float) -> int:
    """Train one's own images in the time that there is; return the exit code."""
    from convflow.bench.utilisation import product_rate
    from convflow.plans.pictures import begin
    from convflow.training.launch import train

    if options.resume is not None:
        raise InputError(
            f"--resume: expected --run FOLDER with the recipe pictures, got --resume "
            f"{options.resume}; give --run, or leave the recipe out"
        )
    if options.epochs is not None:
        raise InputError(
            "--epochs: expected --minutes or --images with the recipe pictures, got --epochs; "
            "leave it out"
        )
    run = options.run or Path("runs") / PLANNED
    config, minutes, pace = begin(rest, run, options.minutes, began)
    finished = train(config, run, minutes=minutes, product_rate=product_rate, pace=pace)
    return 0 if finished else 130


def _settings(recipe: str | None, options: argparse.Namespace, rest: Sequence[str]) -> TrainConfig:
    """Return the settings that words change: of a recipe, or of a run to go on or begin from."""
    from convflow import recipes
    from convflow.training.launch import read_run_config
    from convflow.training.origin import adopt

    origin = word_after("--init", rest) if recipe is None and options.resume is None else None
    if origin is not None and (Path(origin) / "checkpoints").is_dir():
        if options.run is None and not options.help:
            raise InputError(f"expected --run FOLDER beside --init {origin}, got none; add it")
        return read_run_config(Path(origin))
    if (recipe is None) == (options.resume is None):
        given = "neither" if recipe is None else "both"
        raise InputError(
            f"expected first either a recipe or --resume FOLDER, got {given}; "
            "convflow train --help lists the recipes"
        )
    if recipe == PLANNED:
        from convflow.plans.settings import usual_settings

        return usual_settings()
    if recipe is not None:
        config = recipes.create_config(recipe)
        run = options.run or Path("runs") / recipe
        if (init := word_after("--init", rest)) is None:
            return config
        if (run / "config.json").is_file():  # it goes on, maybe without what it began from
            known = read_run_config(run)
            own = {
                name: getattr(known, name)
                for name in ("model", "process", "codec", "text", "sampling")
            }
            data = dataclasses.replace(config.data, channels=known.data.channels)
            return dataclasses.replace(config, **own, data=data)
        return adopt(config, init)
    if options.run is not None:
        raise InputError("expected --resume FOLDER or --run FOLDER, got both; drop --run")
    return read_run_config(options.resume)
