"""`convflow bench ops | models | training | samplers`: how fast the library is on this machine."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convflow.cli.main import Parser, wide
from convflow.cli.options import above_zero, positive, size
from convflow.cli.output import say
from convflow.types import InputError, unknown_name

if TYPE_CHECKING:
    import torch

PRECISIONS = ("float32", "bfloat16")

OPS_HELP = """\
Time deform_sample beside the same sums by F.grid_sample and by gathers, forward and with
all gradients, and beside the limit of the machine. All must agree before anything is timed.

"ratio" is a rival's time over the time of deform_sample: with 15, the rival takes 15 times as long.
The ratio of the limit is below 1: with 0.5, deform_sample takes twice the time that the machine
needs at least."""

MODELS_HELP = """\
Time networks beside DiT of the same size and beside their own floor. The floor is the
time of their matrix products, convolutions and attentions alone. Before it is timed, each network
must give the same numbers in every memory layout, and when it is compiled.
{what}

"ratio" is a rival's time over the time of the network as it is ("eager"). With 1.5 in the line of
DiT, DiT takes 1.5 times as long. With 0.8 in the line of the floor, a fifth of the time goes into
everything else. "product limit" is the time that the network's operations ("tflop") take at the
rate of one large matrix product. "utilisation" is this time over the time of the row: 1 is the best
that the machine can do."""

FORWARD_HELP = "This benchmark times one evaluation without gradients, as in sampling."
TRAINING_HELP = "This benchmark times an evaluation and all gradients, without the optimizer step."

SAMPLERS_HELP = """\
Time the sampling of whole batches, and in the same runs every call of the network.
"share" is the part of the time that is spent in the network. The rest is the cost of the solver,
the guidance and the codec. A watched run must make the same images as an unwatched one.

MODEL is a run folder, checkpoint, model folder or Hub id. Without it, a network with random weights
is used that is as small as that of the digits recipe. Larger networks have a higher share."""


def bench_ops(arguments: Sequence[str]) -> int:
    """Time the operator beside its rivals."""
    parser = _parser("ops", OPS_HELP, "batch size of every shape (default: 8 and 2)", rounds=5)
    parser.add_argument("--size", type=size, help="height x width in cells (default: 16x16, 32x32)")
    options = _parse(parser, arguments)

    from convflow.bench import ops, table
    from convflow.bench.harness import Case, measure, over_limits, unsteady
    from convflow.distributed import choose_device

    device, dtype = choose_device(options.device), _dtype(options)
    shapes = ops.shapes_of(options.size, options.batch_size)
    for shape in shapes:
        ops.check_rivals(shape, device, dtype)
    say(*ops.NOTE.split("\n"), "")

    set_up = partial(ops.set_up, device=device, dtype=dtype)
    found = []
    for shape in shapes:
        rows = measure(Case("deform_sample", set_up, [shape], ops.OP_MODES), options.rounds, device)
        lines = [table.cells(vars(row)) for row in rows]
        sentences = [*over_limits(rows, ops.LIMIT_BY_DEVICE.values()), *unsteady(rows)]
        say(*table.lines(lines), *sentences, "")
        found += lines
    return _finish(options, found, device)


def bench_models(arguments: Sequence[str]) -> int:
    """Time evaluations of networks."""
    return _bench_networks("models", "forward", FORWARD_HELP, arguments)


def bench_training(arguments: Sequence[str]) -> int:
    """Time evaluations of networks with their gradients."""
    return _bench_networks("training", "training", TRAINING_HELP, arguments)


def bench_samplers(arguments: Sequence[str]) -> int:
    """Time sampling, and the network's share of it."""
    parser = _parser("samplers", SAMPLERS_HELP, "images at once (default: 16)", "[MODEL]", rounds=5)
    add = parser.add_argument
    add("model", nargs="?", help="run folder, checkpoint, model folder or Hub id")
    add("--size", type=size, help="height x width in pixels (default: the trained size)")
    add("--steps", type=positive, help="solver steps (default: the recipe's)")
    add("--solver", help="one or several solvers (default: euler,heun,ab4)")
    add("--guidance", type=above_zero, default=1.5, help="guidance scale (default: 1.5)")
    options = _parse(parser, arguments)

    from convflow.bar import Bar
    from convflow.bench import samplers, table
    from convflow.pipeline import Pipeline
    from convflow.samplers.ode import SCHEMES

    solvers = options.solver.split(",") if options.solver else samplers.USUAL_SOLVERS
    for name in solvers:
        if name not in SCHEMES:
            raise InputError(f"--solver: {unknown_name('solver of fixed cost', name, SCHEMES)}")
    pipe = (
        samplers.create_digits(options.device)
        if options.model is None
        else Pipeline.from_pretrained(options.model, device=options.device)
    )
    guidances = list(dict.fromkeys((1.0, options.guidance)))
    chosen = {"steps": options.steps, "size": options.size, "precision": options.precision}
    given = {name: value for name, value in chosen.items() if value is not None}
    pipe.samples(**given)  # refuses now, before a word is printed
    number = options.batch_size or 16
    rows = samplers.measure_samplers(
        pipe, solvers, guidances, num=number, rounds=options.rounds, **given
    )
    total = len(solvers) * (len(guidances) if pipe.model.conditional else 1)
    shown = sys.stderr.isatty()
    say(*samplers.NOTE.split("\n"), "")
    bar = Bar(iterable=rows, total=total, disable=not shown, leave=False)
    found = [table.cells(vars(row)) for row in bar]
    say(*table.lines(found), "")
    return _finish(options, found, pipe.device)


SPEED_BENCHES: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "ops": ("[options]       time the operator beside two rivals and a limit", bench_ops),
    "models": ("[NAME ...]   time networks beside DiT and their own floor", bench_models),
    "training": ("[NAME ...] time networks with all gradients", bench_training),
    "samplers": ("[MODEL]    measure the network's share of the sampling time", bench_samplers),
}
"""What each takes and tells, and what runs it."""


def check_out(out: Path, option: str = "out", example: str = "table.json") -> None:
    """Raise InputError where no table could be written, before minutes of work."""
    from convflow.storage import explained

    if out.is_dir():
        raise InputError(f"--{option}: expected a file, got the folder {out}; give {out / example}")
    with explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()


def _bench_networks(verb: str, mode: str, what: str, arguments: Sequence[str]) -> int:
    about = MODELS_HELP.format(what=what)
    parser = _parser(verb, about, "images at once (default: 2)", "[NAME ...]", rounds=5)
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="published sizes (default: three S sizes)")
    add("--size", type=size, help="height x width in pixels (default: 256x256)")
    add(
        "--compile",
        nargs="?",
        choices=("whole", "blocks"),
        const="whole",
        metavar="HOW",
        help="also time torch.compile: whole takes minutes, blocks one graph per kind of block",
    )
    options = _parse(parser, arguments)

    from convflow.bench import models, table
    from convflow.bench.harness import Case, measure, over_limits, unsteady
    from convflow.distributed import choose_device

    device = choose_device(options.device)
    setting = models.Setting(device, _dtype(options), options.compile)
    shape = (options.batch_size or 2, *(options.size or (256, 256)))
    names = list(dict.fromkeys(options.names)) or models.USUAL_MODELS
    rivals = [rival for name in names if (rival := models.rival_of(name)) is not None]
    models.check_work([*names, *dict.fromkeys(rivals)], shape, mode, setting)
    say(*models.NOTE.split("\n"), "")
    held: dict[str, Any] = {}

    def find(name: str) -> models.PreparedModel:
        if name not in held:
            held[name] = models.prepare_model(name, shape, [mode], setting)
        return held[name]

    found = []
    for name in names:
        for other in held.keys() - {name, models.rival_of(name)}:
            del held[other]  # no more than two networks take memory
        ours = find(name)
        if options.compile and isinstance(ours.compiled, str):
            say(f"{name}: no compiled numbers, {ours.compiled}")
        set_up = partial(models.set_up, find, setting, name)
        case = Case(ours.title, set_up, [shape], [mode])
        rows = models.rate_rows(name, measure(case, options.rounds, device), device)
        lines = [table.cells(vars(row)) for row in rows]
        sentences = [*over_limits(rows, models.LIMIT_LINES), *unsteady(rows)]
        say(*table.lines(lines), *sentences, "")
        found += lines
    return _finish(options, found, device)


def _parser(verb: str, about: str, batch: str, words: str = "", *, rounds: int) -> Parser:
    parser = Parser(
        prog=f"convflow bench {verb}",
        description=about,
        usage=" ".join(f"convflow bench {verb} {words} [options]".split()),
        formatter_class=wide,
    )
    add = parser.add_argument
    add("--batch-size", type=positive, help=batch)
    add("--precision", choices=PRECISIONS, default="float32", help="arithmetic (default: float32)")
    add("--rounds", type=positive, default=rounds, help=f"number of rounds (default: {rounds})")
    add("--csv", type=Path, metavar="FILE", help="also write the rows to FILE, with the machine")
    add("--device", default="auto", help="device: auto (default), cpu, ...")
    return parser


def _parse(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options; a table that could not be written is noticed before minutes of work."""
    options = parser.parse(arguments)
    if options.csv is not None:
        check_out(options.csv, "csv", "table.csv")
    return options


def _dtype(options: argparse.Namespace) -> torch.dtype:
    from convflow.bench.models import PRECISION_DTYPES

    return PRECISION_DTYPES[options.precision]


def _finish(
    options: argparse.Namespace, rows: Sequence[Mapping[str, str]], device: torch.device
) -> int:
    """Print the machine and write the table, where one is wanted."""
    from convflow.bench import table
    from convflow.bench.harness import machine

    notes = machine(device) | {"device": str(device), "precision": options.precision}
    say(", ".join(f"{name} {text}" for name, text in notes.items() if text))
    if options.csv is not None:
        table.write_csv(options.csv, rows, notes)
        say(f"table in {options.csv}")
    return 0
