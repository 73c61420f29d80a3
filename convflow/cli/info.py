"""`convflow info`: say what a published size, a recipe, a run or a model folder holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convflow.cli.main import Parser
from convflow.types import InputError, unknown_name


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        prog="convflow info",
        usage="convflow info [WHAT] [--json]",
        description="Without WHAT: the published sizes. WHAT may be a size (flowdcn-s/2), a recipe "
        "(cifar10.flowdcn), a run folder, a checkpoint, or a model folder.",
        allow_abbrev=False,
    )
    parser.add_argument("what", nargs="?", help="size, recipe or folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse(arguments)

    found = _sizes() if options.what is None else _describe(options.what)
    if options.json:
        print(json.dumps(found, indent=2))
    elif options.what is None:
        _print_sizes(found)
    else:
        _print_tree(found)
    return 0


def _sizes() -> dict[str, Any]:
    from convflow.models.zoo import SIZES

    return {
        name: {
            "parameters": size.params,
            "gmacs_256": size.gmacs[0],
            "gmacs_512": size.gmacs[1],
            **size.settings,
        }
        for name, size in SIZES.items()
    }


def _describe(what: str) -> dict[str, Any]:
    path = Path(what)
    if path.is_dir():
        return _describe_folder(path)
    if path.exists():
        raise InputError(f"{what} is a file; give a run, checkpoint or model folder")

    from convflow.models.zoo import SIZES

    if what in SIZES:
        note = "counts of the published module: 1000 classes, 256 and 512 pixels (8x latents)"
        return {"size": what, **_sizes()[what], "note": note}

    from convflow.recipes import create_config, list_recipes
    from convflow.training.config import to_dict

    if what in list_recipes():
        return {"recipe": what, **to_dict(create_config(what))}
    known = [*SIZES, *list_recipes()]
    raise InputError(unknown_name("size, recipe or folder", what, known))


def _describe_folder(folder: Path) -> dict[str, Any]:
    from convflow.pipeline import Pipeline, find_weights
    from convflow.training.checkpoint import read_state

    weights = find_weights(folder, "ema")
    state = weights.parent / "state.json"
    pipe = Pipeline.from_pretrained(folder, device="cpu")
    trained = {}
    if state.is_file():
        content = read_state(weights.parent)
        trained = {key: content[key] for key in ("step", "images_seen", "version", "config")}
    return {
        "weights": str(weights),
        "parameters": sum(p.numel() for p in pipe.model.parameters()),
        "model": pipe.model.settings,
        "size": list(pipe.size),
        "multiple": pipe.model.multiple,
        "classes": list(pipe.class_names),
        **trained,
    }


def _print_sizes(found: dict[str, Any]) -> None:
    print(f"{'size':14}{'parameters':>12}{'GMACs 256':>11}{'GMACs 512':>11}   settings")
    for name, row in found.items():
        count, low, high = row["parameters"], row["gmacs_256"], row["gmacs_512"]
        settings = f"width {row['width']}, depth {row['depth']}, groups {row['num_groups']}"
        print(f"{name:14}{count / 1e6:10.2f} M{low:11.2f}{high:11.2f}   {settings}")
    print("\nAs published, 1000 classes, 8x latents, multiply-accumulates of the matrix products;")
    print("deformable sampling is not counted. By default our head leaves out the unused half.")


def _print_tree(tree: dict[str, Any], indent: int = 0) -> None:
    for key, value in tree.items():
        if isinstance(value, dict):
            print(f"{'':{indent}}{key}")
            _print_tree(value, indent + 2)
        else:
            shown = f"{value:,}" if isinstance(value, int) and key == "parameters" else value
            shown = ", ".join(map(str, shown)) if isinstance(shown, list) else shown
            print(f"{'':{indent}}{key:{24 - indent}} {shown}")
