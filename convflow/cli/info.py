"""`convflow info`: say what a size, a recipe, a run, a model folder or a file of weights holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convflow.cli.main import Parser
from convflow.cli.sample import positive, size
from convflow.types import InputError, Size, unknown_name

if TYPE_CHECKING:
    from convflow.pipeline import Pipeline

WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt")

NOTE = """\
Parameters and GMACs (10^9 multiply-accumulates of matrix products, attention and convolutions for
one picture at 256, 512 and 1024 pixels) are those of the published networks with 1000 classes and
8x latents; deformable sampling is not counted. By default our heads leave out what is not used."""
MEMORY_NOTE = """\
Memory is an estimate in float32, without codec, data loader and temporary results of a backward
pass. Training: weights, their average, gradients, AdamW's two moments, and the activations that
the backward pass needs. Sampling: weights, and the most activations at once; guidance evaluates
two pictures for each that it makes."""


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        prog="convflow info",
        usage="convflow info [WHAT] [--batch-size N] [--size HxW] [--json]",
        description="Without WHAT, or with a family (dit): its sizes, and with --batch-size or "
        "--size the memory they need. WHAT may be a size (flowdcn-s/2), a recipe "
        "(cifar10.flowdcn), a run folder, a checkpoint, a model folder, or a file of published "
        "weights.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("what", nargs="?", help="family, size, recipe, folder or file")
    add("--batch-size", type=positive, help="pictures at once, for the memory (default: 1)")
    add("--size", type=size, help="pixels of a picture, 8x latents (default: 256)")
    add("--json", action="store_true", help="print JSON")
    options = parser.parse(arguments)

    from convflow.models.zoo import FAMILIES

    wants_memory = options.batch_size is not None or options.size is not None
    batch, pixels = options.batch_size or 1, options.size or (256, 256)
    is_table = options.what is None or options.what in FAMILIES
    if is_table:
        found = _sizes(options.what)
        if wants_memory:
            found = {n: row | {"memory": _memory(n, batch, pixels)} for n, row in found.items()}
    else:
        found = _describe(options.what, batch, pixels)
        if wants_memory and "memory" not in found:
            raise InputError(
                f"--batch-size and --size belong to published sizes, got {options.what!r}; "
                "leave them out"
            )
    if options.json:
        print(json.dumps(found, indent=2))
    elif is_table:
        _print_sizes(found)
    else:
        _print_tree(found)
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


def _memory(name: str, batch: int, pixels: Size) -> dict[str, Any]:
    """Return the bytes that training and sampling need, item by item."""
    from convflow.models.cost import measure
    from convflow.models.zoo import create_model

    if pixels[0] % 8 or pixels[1] % 8:
        raise InputError(
            f"expected a --size of which 8 divides both sides, for 8x latents, got "
            f"{pixels[0]}x{pixels[1]}; try 256"
        )
    latent = (pixels[0] // 8, pixels[1] // 8)
    cost = measure(partial(create_model, name), latent, batch)
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


def _describe(what: str, batch: int, pixels: Size) -> dict[str, Any]:
    path = Path(what)
    if path.is_dir():
        return _describe_folder(path)
    if path.exists():
        return _describe_file(path)

    from convflow.models.zoo import FAMILIES, SIZES

    if what in SIZES:
        row = {"size": what, **_sizes()[what], "memory": _memory(what, batch, pixels)}
        return row | {"note": f"{NOTE}\n{MEMORY_NOTE}"}

    from convflow.recipes import create_config, list_recipes
    from convflow.training.config import to_dict

    if what in list_recipes():
        return {"recipe": what, **to_dict(create_config(what))}
    if path.suffix in WEIGHTS:
        raise InputError(f"no file {what} here; check the name")
    known = [*SIZES, *FAMILIES, *list_recipes()]
    raise InputError(unknown_name("size, recipe, folder or file", what, known))


def _describe_file(path: Path) -> dict[str, Any]:
    if path.suffix not in WEIGHTS:
        raise InputError(
            f"{path} is a file; give a run, checkpoint or model folder, or a file of weights "
            f"({', '.join(WEIGHTS)})"
        )
    if path.name == "model.safetensors" and (path.parent / "config.json").is_file():
        return _describe_folder(path.parent)

    from convflow.models.convert import describe_weights

    return describe_weights(path)


def _describe_folder(folder: Path) -> dict[str, Any]:
    from convflow.pipeline import Pipeline
    from convflow.training.checkpoint import read_state

    pipe = Pipeline.from_pretrained(folder, device="cpu")
    assert pipe.folder is not None
    checkpoint, trained = pipe.folder.parent, {}
    if (checkpoint / "state.json").is_file():
        content = read_state(checkpoint)
        trained = {key: content[key] for key in ("step", "images_seen", "version", "config")}
    return {
        "weights": str(pipe.folder),
        "parameters": sum(p.numel() for p in pipe.model.parameters()),
        "model": pipe.model.settings,
        "size": list(pipe.size),
        "multiple": pipe.model.multiple,
        "classes": list(pipe.class_names),
        **_scales(pipe),
        **trained,
    }


def _scales(pipe: Pipeline) -> dict[str, Any]:
    """Return how a model of scales sees a picture, and how it samples one; of others nothing."""
    from dataclasses import asdict

    from convflow.processes.multiscale import MultiscaleFlow
    from convflow.processes.process import create_process

    process = create_process(asdict(pipe.process))
    if not isinstance(process, MultiscaleFlow):
        return {}
    return {
        "scales": {
            "decomposition": process.decomposition.name,
            "sizes": [f"{height}x{width}" for height, width in process.sizes(pipe.size)],
            "probabilities": list(process.probabilities),
            "deviations": list(process.deviations) or "as they are",
            "sampling": pipe.samples().sampler.describe(process),
        }
    }


def _print_sizes(found: dict[str, Any]) -> None:
    memories = [row["memory"] for row in found.values() if "memory" in row]
    head = f"{'size':13}{'parameters':>12}{'GMACs 256':>11}{'512':>9}{'1024':>9}"
    head += f"{'training':>13}{'sampling':>12}" if memories else ""
    print(f"{head}   settings")
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
        print(f"{line}   {', '.join(shown)}")
    print(f"\n{NOTE}")
    if memories:
        height, width = memories[0]["pixels"]
        print(f"\nBatches of {memories[0]['batch_size']} at {height}x{width} pixels.")
        print(MEMORY_NOTE)


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _print_tree(tree: dict[str, Any], indent: int = 0) -> None:
    for key, value in tree.items():
        if key == "note":
            print(f"\n{value}")
        elif isinstance(value, dict):
            print(f"{'':{indent}}{key}")
            _print_tree(value, indent + 2)
        else:
            shown = f"{value:,}" if isinstance(value, int) and key == "parameters" else value
            shown = ", ".join(map(str, shown)) if isinstance(shown, (list, tuple)) else shown
            print(f"{'':{indent}}{key:{24 - indent}} {shown}")
