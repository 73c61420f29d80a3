"""How fast the networks are, beside DiT of the same size and beside their own matrix products.

Run it as `python benchmarks/models/throughput.py` from the repository; `--quick` to see it work.
`convflow bench models` and `convflow bench training` show the same on any machine.
"""

from __future__ import annotations

import argparse
import gc
import re
import sys
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import get_args

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import harness
from convflow.bench import models, table
from convflow.bench.floor import Products
from convflow.bench.harness import over_limits
from convflow.bench.models import BatchShape, PreparedModel, Setting
from convflow.distributed import choose_device
from convflow.models.zoo import SIZES

NAMES = [name for name in SIZES if re.search(r"-[sb](/2)?$", name)]


def main() -> None:
    """Measure, print and write the table, which grows with each shape and mode."""
    device = choose_device()
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "--models",
        nargs="+",
        choices=SIZES,
        default=NAMES,
        metavar="NAME",
        help="default: all S and B",
    )
    add("--sizes", nargs="+", type=int, default=[256, 512], metavar="PIXELS")
    add("--batch", nargs="+", type=int, default=[8], help="images at once, halved until they fit")
    add("--modes", nargs="+", choices=models.MODEL_MODES, default=models.MODEL_MODES)
    add("--precision", choices=models.PRECISION_DTYPES, default="float32", help="of the arithmetic")
    add("--rounds", type=int, default=7, help="how often every rival has its turn")
    add("--compile", choices=[*get_args(models.Compilation), "none"], default="whole", dest="how")
    plain = "beside these also DiT in eager float32, as papers measured it"
    add("--float32-rival", nargs="+", choices=SIZES, default=[], metavar="NAME", help=plain)
    add("--table", default=f"throughput_{device.type}", metavar="NAME", help="in results/")
    add("--quick", action="store_true", help="one image of 256 pixels, two rounds, no table")
    add(harness.DIRTY, action="store_true", help="allow numbers that no revision can repeat")
    options = parser.parse_args()
    shapes = [(batch, side, side) for side, batch in product(options.sizes, options.batch)]
    rounds, how = options.rounds, None if options.how == "none" else options.how
    setting = Setting(device, models.PRECISION_DTYPES[options.precision], how)
    if options.quick:
        shapes, rounds = [(1, 256, 256)], 2
    # Convolutions in float32 as products are: torch rounds theirs to TF32 if it is not told.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32

    harness.machine()  # refuses now rather than after minutes
    print(models.NOTE, "\n")
    path, rows, failed = harness.RESULTS / f"{options.table}.csv", list[table.Cells](), False
    for shape, mode, name in product(shapes, options.modes, options.models):
        beside = setting._replace(float32_rival=name in options.float32_rival)
        try:
            rows += measure(beside, name, shape, mode, rounds)
        except Exception as error:  # the others have their rows nonetheless
            failed = True
            print(f"{name}, {mode}: {type(error).__name__}: {error}", flush=True)
        if rows and not options.quick:
            harness.write_table(path, rows, precision=options.precision)
    print(harness.machine())
    if rows and not options.quick:
        print(f"written to {path}")
    raise SystemExit(failed)


def measure(
    setting: Setting, name: str, shape: BatchShape, mode: str, rounds: int
) -> list[table.Cells]:
    """Print and return rows of one network; of half the batch while a GPU cannot hold it."""
    batch, *size = shape
    while batch:
        gc.collect()  # compiled networks refer to themselves
        try:
            return _measure(setting, name, (batch, *size), mode, rounds)
        except torch.OutOfMemoryError:
            sides = "x".join(map(str, (batch, *size)))
            print(f"{name}, {mode}: {sides} does not fit into memory", flush=True)
        torch.cuda.empty_cache()
        batch //= 2
    return []


def _measure(
    setting: Setting, name: str, shape: BatchShape, mode: str, rounds: int
) -> list[table.Cells]:
    find = cache(partial(models.prepare_model, shape=shape, modes=[mode], setting=setting))
    ours, theirs = find(name), find(models.rival_of(name) or name)
    if isinstance(ours.compiled, str) and setting.compiles:
        print(f"{name}: no compiled numbers, {ours.compiled}")
    kernel = attention(theirs, shape, setting)
    whose = (theirs.name, f"{theirs.name} {models.COMPILED}")
    set_up = partial(models.set_up, find, setting, name)
    case = harness.Case(ours.title, set_up, [shape], [mode])
    found = models.rate_rows(name, harness.measure(case, rounds), setting.device)
    rows = [
        table.cells(vars(row) | {"attention": kernel if row.rival in whose else ""})
        for row in found
    ]
    print(*table.lines(rows), *over_limits(found, models.LIMIT_LINES), "", sep="\n", flush=True)
    return rows


def attention(prepared: PreparedModel, shape: BatchShape, setting: Setting) -> str:
    """The kernels that a network's attention runs through, if it has any.

    Raises:
        RuntimeError: on a GPU, in half precision, they are slow ones.
    """
    with Products() as products:
        models.call(prepared.model, prepared.layout, shape, models.MODEL_MODES[0], setting)()
    names = {function._schema.name for function, *_ in products.calls}  # type: ignore[attr-defined]
    kernel = ", ".join(sorted(n.split("_product_")[1] for n in names if "_product_" in n))
    half = setting.device.type == "cuda" and setting.dtype != torch.float32
    if half and kernel and not re.search("flash|cudnn", kernel):
        raise RuntimeError(f"expected flash attention in {prepared.name}, got {kernel}")
    return kernel


if __name__ == "__main__":
    main()
