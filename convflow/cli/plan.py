"""`convflow plan`: what a training needs, before a machine is rented: memory, time and disk."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from convflow.cli.main import Parser
from convflow.cli.options import above_zero, positive
from convflow.cli.output import say
from convflow.types import InputError

if TYPE_CHECKING:
    from convflow.models.backbone import Backbone
    from convflow.training.config import TrainConfig

USABLE = 0.9
"""The share of a device's memory that is planned with; the rest is the allocator's and driver's."""

UNITS = {"GB": 10**9, "GiB": 2**30, "MB": 10**6, "MiB": 2**20, "TB": 10**12, "TiB": 2**40}

PLAN_HELP = """usage: convflow plan RECIPE [--devices N] [--memory 80GB] [--KEY VALUE ...] [--json]

Print what the training of a recipe needs, without data and without computing anything:
parameters, memory on each device, a batch that fits, hours and disk.

options
  --devices 8              number of devices (default: 1)
  --memory 80GB            memory of each device, in GB, GiB, MB, MiB, TB or TiB; with it a batch
                           that fits is found, with a tenth of the memory left free
  --images-per-second 900  speed of all devices together; with it the hours are printed
  --num-images 1281167     number of images in the data; with it the disk for latents is printed
  --json                   print JSON; all memory is in bytes
  --KEY VALUE              any setting of convflow train, such as --data.size 512x512

what is counted
  single, ddp   each device holds all float32 weights, their average (EMA), their gradients and the
                state of the optimizer
  fsdp          each device holds its share of these, the weights outside of blocks, the weights of
                two blocks (one is computed while the next arrives) and the gradients of one block
  an image      its activations for each choice of --memory.recompute, see convflow info
  --freeze      frozen parameters have no average, no gradients and no state of the optimizer
  --lora.rank   likewise the whole network, beside which adapters are trained; --init is not read,
                and an image is counted as in a training of the whole network

The memory is an estimate, without codec and data loader. Where the recipe sets no number of
classes, it is 1000. Precision auto is counted as bfloat16.

example
  convflow plan imagenet.dico_xl --devices 8 --memory 80GB --images-per-second 900"""


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        say(*PLAN_HELP.split("\n"))
        return 0
    parser = Parser(prog="convflow plan", add_help=False)
    parser.add_argument("recipe")
    parser.add_argument("--devices", type=positive, default=1)
    parser.add_argument("--memory", type=memory_bytes)
    parser.add_argument("--images-per-second", type=above_zero)
    parser.add_argument("--num-images", type=positive)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    if arguments[0].startswith("-"):
        raise InputError(
            f"expected a recipe first, got {arguments[0]!r}; convflow train --help lists them"
        )
    options, rest = parser.parse_known_args(list(arguments))
    if options.help:
        say(*PLAN_HELP.split("\n"))
        return 0
    from convflow.recipes import create_config
    from convflow.training.overrides import override

    found = plan(override(create_config(options.recipe), rest), options)
    if options.json:
        say(*json.dumps(found, indent=2).split("\n"))
    else:
        _print_plan(found, options)
    return 0


def memory_bytes(text: str) -> int:
    """Return the bytes of "80GB" or "79.5 GiB"; for `argparse`."""
    found = re.fullmatch(rf"(\d+(?:\.\d+)?) ?({'|'.join(UNITS)})", text)
    if not found or not (count := int(float(found[1]) * UNITS[found[2]])):
        raise argparse.ArgumentTypeError(f"expected memory such as 80GB or 24GiB, got {text!r}")
    return count


class _Numbers(NamedTuple):
    """Numbers of a network in training.

    Attributes:
        parameters: all weights.
        trained: those that are trained.
        stored: those of which a checkpoint holds weights and average.
        block: those in the largest block.
        outside: those outside of blocks.
        optimizer: what the optimizer keeps.
        averages: how many averages are kept.
    """

    parameters: int
    trained: int
    stored: int
    block: int
    outside: int
    optimizer: int
    averages: int

    @property
    def checkpoint(self) -> int:
        """Bytes of a checkpoint."""
        more = (self.averages - 1) * self.trained
        return 4 * (2 * self.stored + more + self.optimizer)

    def held(self, devices: int, half: bool) -> dict[str, dict[str, int]]:
        """Return the bytes on a device by engine, without activations."""
        whole = {
            "weights": 4 * self.parameters,
            "average": 4 * self.trained * self.averages,
            "gradients": 4 * self.trained,
            "optimizer": 4 * self.optimizer,
        }
        size = 2 if half else 4
        shares = {name: -(-count // devices) for name, count in whole.items()}
        # Weights of a block and of the next, gradients of one and their copy on the way.
        shares["gathered"] = size * (2 * self.outside + 4 * self.block) if devices > 1 else 0
        found = {"single": whole} | ({"ddp": whole} if devices > 1 else {})
        partly = self.trained < self.parameters  # which is not for fsdp
        return found if partly or devices == 1 else found | {"fsdp": shares}


def count_numbers(build: Any, config: TrainConfig) -> _Numbers:
    """Return the numbers of a network in training; its weights take no memory."""
    import torch

    with torch.device("meta"):
        model: Backbone = build()

    def size(module: Any) -> int:
        return sum(p.numel() for p in module.parameters())

    blocks = [size(block) for block in model.trunk_blocks]
    whole, trained = size(model), sum(p.numel() for p in model.parameters() if p.requires_grad)
    return _Numbers(
        parameters=whole,
        trained=trained,
        stored=trained if config.lora.rank else whole,
        block=max(blocks, default=whole),
        outside=whole - sum(blocks),
        optimizer=config.optim.numbers_kept(model),
        averages=1 + len(config.ema.half_lives) + len(config.ema.sigma_rel),
    )


def limited(config: TrainConfig, build: Callable[[], Backbone]) -> Callable[[], Backbone]:
    """Return what makes a network of which settings train a part, or raise InputError."""
    import torch

    from convflow.models.families import PRETRAINED
    from convflow.models.pyramid import Pyramid
    from convflow.parallel.single import Single
    from convflow.training.tuning import check_tuning, limit_training

    begun = replace(config, init=config.init or config.model["name"])
    check_tuning(begun, Single(torch.device("cpu")), None)

    def build_limited() -> Backbone:
        network = build()
        of_others = config.model["name"] in PRETRAINED
        around = network.scale_parts() if isinstance(network, Pyramid) and of_others else ()
        limit_training(config, network, around, None)
        return network

    return build_limited


def plan(config: TrainConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Return what a training needs, in bytes, images and hours.

    Args:
        config: the complete settings.
        options: `devices`, `memory`, `images_per_second` and `num_images`, see the help.
    """
    from convflow.models.blocks import RecomputeChoice
    from convflow.models.cost import measure_cost
    from convflow.training.build import build_network

    classes, codec, size = config.model.get("num_classes", 1000), config.codec, config.data.size
    half = config.precision != "float32"
    whole = partial(build_network, config, classes, codec, config.process)
    build = limited(config, whole)
    numbers = count_numbers(build, config)
    build = whole if config.lora.rank else build  # peft makes no adapters without numbers there
    image, gmacs = {}, 0.0
    for choice in get_args(RecomputeChoice):
        cost = measure_cost(build, size, 1, codec.factor, half, choice, codec.frame_factor)
        items, gmacs = cost.training, cost.gmacs
        image[choice] = items["activations"] + items["temporary results"]
    share = -(-config.batch_size // options.devices)
    engines = {}
    for name, held in numbers.held(options.devices, half).items():
        fixed = sum(held.values())
        rows = {}
        for choice, bytes_each in image.items():
            batch = min(share, config.micro_batch or share)
            rows[choice] = {"total": fixed + batch * bytes_each}
            if options.memory:
                most = max(0, int((USABLE * options.memory - fixed) // bytes_each))
                rows[choice]["batch_that_fits"] = most
        engines[name] = {**held, "held": fixed, "recompute": rows}
    found: dict[str, Any] = {
        "recipe": options.recipe,
        "parameters": numbers.parameters,
        "trained": numbers.trained,
        "gmacs": gmacs,
        "size": list(size),
        "precision": "bfloat16" if half else "float32",
        "devices": options.devices,
        "batch_size": config.batch_size,
        "batch_on_a_device": min(share, config.micro_batch or share),
        "bytes_for_an_image": image,
        "memory": engines,
        "checkpoint": numbers.checkpoint,
        "checkpoints_kept": config.checkpoint.keep,
        "images": config.images,
    }
    if options.images_per_second:
        found["hours"] = config.images / options.images_per_second / 3600
    if config.lora.rank:
        found["base"] = 4 * (numbers.parameters - numbers.trained)
    if options.num_images and codec.factor > 1:
        cells = math.prod(codec.cells(size))
        found["latents"] = 8 * options.num_images * codec.channels(config.data.channels) * cells
    return found


def _print_plan(found: dict[str, Any], options: argparse.Namespace) -> None:
    from convflow.settings.fields import Pixels
    from convflow.settings.read import show
    from convflow.units import bytes_of

    partly = found["trained"] < found["parameters"]
    trained = f" ({found['trained']:,} of them trained)" if partly else ""
    say(
        f"{found['recipe']}: {found['parameters'] / 1e6:,.1f} M parameters{trained}, "
        f"{found['gmacs']:,.1f} GMACs for an image of {show(found['size'], Pixels)}, in "
        f"{found['precision']}",
        f"batch {found['batch_size']} on {found['devices']} devices: "
        f"{found['batch_on_a_device']} at once on each",
        "",
        f"{'engine':8}{'recompute':11}{'held':>12}{'an image':>12}{'together':>12}"
        + (f"{'batch that fits':>18}" if options.memory else ""),
    )
    for name, engine in found["memory"].items():
        for choice, row in engine["recompute"].items():
            image = found["bytes_for_an_image"][choice]
            sizes = (engine["held"], image, row["total"])
            line = f"{name:8}{choice:11}" + "".join(f"{bytes_of(count):>12}" for count in sizes)
            say(line + (f"{row['batch_that_fits']:>18,}" if options.memory else ""))
    kept = found["checkpoints_kept"]
    say("", f"held: {_items(found['memory'])}")
    say(
        f"checkpoints: {bytes_of(found['checkpoint'])} each; {kept} are kept and one is being "
        f"written: {bytes_of((kept + 1) * found['checkpoint'])} on the disk"
    )
    if "base" in found:
        say(f"the network beside the adapters, once in the run: {bytes_of(found['base'])}")
    if "latents" in found:
        latents = bytes_of(found["latents"])
        say(f"latents (mean and deviation, float32) of {options.num_images:,} images: {latents}")
    if "hours" in found:
        say(
            f"{found['images']:,} images at {options.images_per_second:,g} images/s: "
            f"{found['hours']:,.1f} hours"
        )


def _items(engines: dict[str, Any]) -> str:
    """Return what each engine holds, such as "single = weights 1 GiB + ..."."""
    from convflow.units import bytes_of

    held = {
        name: " + ".join(
            f"{item} {bytes_of(count)}"
            for item, count in engine.items()
            if item not in ("held", "recompute")
        )
        for name, engine in engines.items()
    }
    return "; ".join(f"{name} = {text}" for name, text in held.items() if name != "ddp")
