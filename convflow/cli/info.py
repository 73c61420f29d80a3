"""`convflow info`: say what a size, a recipe, a run, a model folder or a file of weights holds."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from convflow.cli.main import Parser
from convflow.cli.options import holds_model, positive, size
from convflow.cli.output import say
from convflow.cli.tree import print_tree, recipe_in_short, run_in_short
from convflow.hub import WEIGHTS, missing
from convflow.types import InputError, Size, size_text, unknown_name

if TYPE_CHECKING:
    from convflow.bundle.config import PipelineConfig
    from convflow.codecs import Codec
    from convflow.models.backbone import Backbone
    from convflow.training.config import TrainConfig

SETTINGS_FILES = ("config.json", "pipeline.json", "state.json")

NOTE = """\
Parameters and GMACs are those of the published networks with 1000 classes and 8x latents. GMACs
are 10^9 multiply-accumulates of matrix products, attention and convolutions, for one image at 256,
512 and 1024 pixels; deformable sampling is not counted. Our heads leave out unused parts."""
MEMORY_NOTE = """\
Memory is an estimate in float32, without codec and data loader. Training counts the weights, their
average, the gradients, AdamW's two moments, the activations for the backward pass, and its
temporary results. Sampling counts the weights and the most activations at once; with guidance,
two images are evaluated for each image."""


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        prog="convflow info",
        usage="convflow info [WHAT] [--batch-size N] [--size HxW] [--part NAME] [--all] [--json]",
        description="Describe WHAT: a size (flowdcn-s/2), a recipe (cifar10.flowdcn), a run "
        "folder, a checkpoint, a model folder, a store of latents, a published checkpoint "
        "(dit-xl/2-256), a file of published weights, or a folder in which diffusers has saved a "
        "DiT. Without WHAT, or with a family (dit), list the sizes. With --batch-size or --size, "
        "also estimate the memory for training and sampling.",
    )
    add = parser.add_argument
    add("what", nargs="?", help="family, size, recipe, checkpoint, folder or file")
    add("--batch-size", type=positive, help="batch size of the memory estimate (default: 1)")
    add("--size", type=size, help="image size of the memory estimate (default: 256, or as trained)")
    add("--part", help="the network to describe, if a file of weights contains several")
    add("--all", action="store_true", help="print all settings of a run or a recipe too")
    add("--json", action="store_true", help="print JSON, which has all of it")
    options = parser.parse(arguments)

    from convflow.models.zoo import FAMILIES, create_model

    asked = _Asked(options.batch_size, options.size)
    is_table = options.what is None or options.what in FAMILIES
    if options.part and not Path(options.what or "").exists():
        raise InputError(
            f"--part: expected it with a file of weights, got {options.part}; name one"
        )
    if is_table:
        found = _sizes(options.what)
        if any(asked):
            for name, row in found.items():
                row["memory"] = asked.memory(partial(create_model, name))
    else:
        found = _describe(options.what, asked, options.part)
    if options.json:
        say(*json.dumps(found, indent=2).replace("\x7f", r"\u007f").split("\n"))
    elif is_table:
        _print_sizes(found)
    else:
        short = recipe_in_short if "recipe" in found else run_in_short
        print_tree(found if options.all else short(found))
    if problem := found.get("problem", ""):
        named = "" if options.what in problem else f"{options.what}: "
        raise InputError(f"{named}{problem}; copy it again or use another")
    return 0


def _sizes(family: str | None = None) -> dict[str, Any]:
    from convflow.models.zoo import SIZES

    return {
        name: {
            "parameters": size.params,
            **{f"gmacs_{256 << i}": gmacs for i, gmacs in enumerate(size.gmacs)},
            **size.settings,
        }
        for name, size in SIZES.items()
        if family in (None, size.family)
    }


class _Bytes(int):
    """Bytes, that people read as MiB or GiB."""

    def __str__(self) -> str:
        return f"{self / 2**20:.1f} MiB" if self < 2**30 else f"{self / 2**30:.2f} GiB"


class _Asked(NamedTuple):
    """The batch that the user wants the memory for, None where nothing was said."""

    batch: int | None
    pixels: Size | None

    def memory(
        self,
        build: Callable[[], Backbone],
        pixels: Size = (256, 256),
        factor: int = 8,
        frame_factor: int = 1,
    ) -> dict[str, Any]:
        """Return the bytes that training and sampling need, item by item."""
        from convflow.models.cost import measure_cost

        batch, pixels = self.batch or 1, self.pixels or pixels
        cost = measure_cost(build, pixels, batch, factor, frame_factor=frame_factor)
        items = {"training": cost.training, "sampling": cost.sampling}
        return {
            "batch_size": batch,
            "pixels": list(pixels),
            **{
                what: {key: _Bytes(count) for key, count in (parts | {"total": total}).items()}
                for what, parts in items.items()
                if (total := sum(parts.values()))
            },
        }

    def rows(self, build: Callable[[], Backbone], codec: Codec, pixels: Size) -> dict[str, Any]:
        """Return the memory of a run or a recipe with what it means."""
        memory = self.memory(build, pixels, codec.factor, codec.frame_factor)
        return {"memory": memory, "note": MEMORY_NOTE}


def _codec(config: PipelineConfig | TrainConfig, folder: Path | None = None) -> Codec:
    """Return a codec that knows the shape of model space and holds no weights."""
    from dataclasses import replace

    from convflow.codecs import LatentCodec
    from convflow.training.places import find_place

    codec = config.codec
    if folder is not None and isinstance(codec, LatentCodec):
        codec = replace(codec, autoencoder=find_place(codec.autoencoder, folder, inside=True))
    return codec


def _describe(what: str, asked: _Asked, part: str | None) -> dict[str, Any]:
    from convflow.models.published import find_file

    path = Path(what)
    if what and (file := find_file(path)) != path:
        return _describe_file(file, asked, part)
    if what and path.is_dir():
        return _describe_folder(path, asked)
    if what and path.exists():
        return _describe_file(path, asked, part)

    from convflow.models.zoo import FAMILIES, SIZES, create_model

    if what in SIZES:
        row = {"size": what, **_sizes()[what], "memory": asked.memory(partial(create_model, what))}
        return row | {"note": f"{NOTE}\n{MEMORY_NOTE}"}

    from convflow.recipes import SOURCE, create_config, find_curve, find_target, list_recipes
    from convflow.settings.read import to_dict

    if what in list_recipes():
        target = find_target(what)
        scores = {} if target is None else {"target": {"of": SOURCE, **target._asdict()}}
        if curve := find_curve(what):
            scores["loss reached here"] = {"of": curve.origin} | {
                f"{images:,} images": loss for images, loss in curve.losses.items()
            }
        config = create_config(what)
        memory = _memory_of_recipe(config, asked) if any(asked) else {}
        return {"recipe": what, "about": list_recipes()[what]} | to_dict(config) | scores | memory
    if path.suffix in WEIGHTS:
        raise missing(what, "a file of weights")

    from convflow.bundle.released import RELEASES

    if what in RELEASES:
        return _describe_release(what)
    known = [*SIZES, *FAMILIES, *list_recipes(), *RELEASES]
    near = difflib.get_close_matches(what, known, 1, 0.6)
    if "/" in what and (path.parent.is_dir() or not near):
        raise missing(what, "a size, a recipe, a folder or a file (convflow info lists names)")
    if not what:
        raise InputError("expected a size, recipe, folder or file, got ''; leave it out for a list")
    raise InputError(unknown_name("size, recipe, folder or file", what, known))


def _describe_release(name: str) -> dict[str, Any]:
    """Return what is known of a published checkpoint, without a download."""
    from convflow.bundle.released import PROTOCOLS, RELEASES
    from convflow.recipes import SOURCE, find_target
    from convflow.settings.read import to_dict

    release = RELEASES[name]
    process, sampling = PROTOCOLS[release.family]
    target = find_target(release.recipe)
    return {
        "checkpoint": name,
        "size": release.size,
        "pixels": [release.pixels, release.pixels],
        "classes": "the 1000 of ImageNet",
        "licence": release.licence,
        "hub": release.hub or "not known: download it and give its path",
        "files": list(release.files),
        "process": process.kind,
        "sampling": to_dict(sampling),
        **({} if target is None else {"target": {"of": SOURCE, **target._asdict()}}),
    }


def _memory_of_recipe(config: TrainConfig, asked: _Asked) -> dict[str, Any]:
    """Return the memory of a recipe's network, of 1000 classes where the data tell how many."""
    from convflow.training.build import build_network

    classes, codec = config.model.get("num_classes", 1000), config.codec
    build = partial(build_network, config, classes, codec, config.process)
    return asked.rows(build, codec, config.data.size)


def _describe_file(path: Path, asked: _Asked, part: str | None) -> dict[str, Any]:
    if path.suffix not in WEIGHTS and not path.name.endswith(".safetensors.index.json"):
        raise InputError(
            f"{path} is a file; give a run, checkpoint or model folder, or a file of weights "
            f"({', '.join(WEIGHTS)})"
        )
    if path.name == "model.safetensors" and (path.parent / "config.json").is_file():
        return _describe_folder(path.parent, asked)
    if any(asked):
        raise InputError(
            "--batch-size and --size: expected a size, a recipe, a run or a model folder, got the "
            f"file {path}; leave them out"
        )

    from convflow.models.convert import describe_weights

    return describe_weights(path, part)


def _describe_folder(folder: Path, asked: _Asked) -> dict[str, Any]:
    from convflow.data.latents import describe_stores, find_stores

    if (stores := find_stores(folder)) and not holds_model(folder):
        return describe_stores(folder, stores)
    if not holds_model(folder):
        inside = [str(path) for path in sorted(folder.iterdir()) if holds_model(path)]
        some = f"but {', '.join(inside[:3])} do" if inside else "nor does a folder in it"
        raise InputError(
            f"{folder} itself holds no run, checkpoint or model, {some}; give one that does"
        )

    from convflow.bundle.folder import find_weights, read_description
    from convflow.models.adapter import describe_adapter, is_adapter
    from convflow.models.zoo import create_model, load_model
    from convflow.settings.read import to_dict
    from convflow.training.checkpoint import read_state

    weights = find_weights(folder, "ema")
    config, model = read_description(weights), load_model(weights)
    checkpoint, trained = weights.parent, {}
    if (checkpoint / "state.json").is_file():
        content = read_state(checkpoint)
        trained = {key: content[key] for key in ("images_seen", "step", "version", "config")}
    settings = {"config": trained.pop("config")} if trained else {}
    adapter = describe_adapter(weights) if is_adapter(weights) else {}
    described, named = to_dict(config), dict(model.settings)
    build = partial(create_model, named.pop("family"), **named)
    return {
        "weights": str(weights),
        **trained,
        "size": list(config.size),
        "multiple": model.multiple,
        "classes": list(config.class_names),
        **(
            {"texts": described["text"], "prompts": list(config.prompts)}
            if model.takes_text
            else {}
        ),
        "process": config.process.kind,
        "parameters": sum(p.numel() for p in model.parameters()),
        **({"adapter": adapter} if adapter else {}),
        "model": model.settings,
        **({"codec": described["codec"]} if config.codec.kind == "latent" else {}),
        **_scales(config, weights),
        **_averages(folder, checkpoint),
        **_unreadable(folder),
        **settings,
        **(asked.rows(build, _codec(config, weights), config.size) if any(asked) else {}),
    }


def _averages(run: Path, checkpoint: Path) -> dict[str, Any]:
    """Return what averages a run keeps beside its usual one, and the snapshots of them."""
    from convflow.bundle.averages import describe_averages

    found = describe_averages(run, checkpoint)
    return {"averages": found} if found else {}


def _unreadable(folder: Path) -> dict[str, Any]:
    """Return which settings and weights in a folder cannot be read, beside those described."""
    from convflow.storage import UNFINISHED, check_tensors, read_json

    found = []
    for path in sorted(folder.rglob("*")):
        if any(part.startswith(UNFINISHED) for part in path.relative_to(folder).parts):
            continue
        check = check_tensors if path.suffix == ".safetensors" else read_json
        try:
            if path.suffix == ".safetensors" or path.name in SETTINGS_FILES:
                check(path)
        except InputError as error:
            found.append(str(error).partition("; ")[0])
    return {"problem": "; ".join(found)} if found else {}


def _scales(config: PipelineConfig, folder: Path) -> dict[str, Any]:
    """Return how a model of scales sees an image, and how it samples one; of others nothing."""
    process = config.process
    if not process.multiscale:
        return {}
    codec = _codec(config, folder)
    scales = process.describe(config.size, codec.factor, codec.frame_factor)
    solver = config.sampling.varied(process).solver
    solver.check(process)
    scales["sizes"] = [*map(size_text, scales["sizes"])]
    scales["deviations"] = scales["deviations"] or "as they are"
    return {"scales": scales | {"sampling": solver.describe(process)}}


def _print_sizes(found: dict[str, Any]) -> None:
    memories = [row["memory"] for row in found.values() if "memory" in row]
    head = f"{'size':13}{'parameters':>12}{'GMACs 256':>11}{'512':>9}{'1024':>9}"
    head += f"{'training':>13}{'sampling':>12}" if memories else ""
    say(f"{head}   settings")
    for name, row in found.items():
        settings = dict(row)
        memory = settings.pop("memory", None)
        line = f"{name:13}{settings.pop('parameters') / 1e6:10.2f} M"
        line += "".join(
            f"{settings.pop(f'gmacs_{pixels}'):{width}.2f}"
            for pixels, width in ((256, 11), (512, 9), (1024, 9))
        )
        if memory:
            line += f"{memory['training']['total']!s:>13}{memory['sampling']['total']!s:>12}"
        shown = (f"{key.removeprefix('num_')} {_plain(value)}" for key, value in settings.items())
        say(f"{line}   {', '.join(shown)}")
    say("", *NOTE.split("\n"))
    if memories:
        height, width = memories[0]["pixels"]
        say("", f"Batches of {memories[0]['batch_size']} at {height}x{width} pixels.")
        say(*MEMORY_NOTE.split("\n"))


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
