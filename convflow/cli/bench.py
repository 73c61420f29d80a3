"""`convflow bench`: finds the benchmark; `solvers`, which makes a solver from measurements."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convflow.cli.main import Parser
from convflow.cli.options import (
    add_sampling_options,
    chosen_labels,
    natural,
    positive,
    sampling_options,
    size,
)
from convflow.cli.output import say
from convflow.cli.speed import BENCHES as SPEED
from convflow.cli.speed import check_out
from convflow.types import InputError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

SOLVERS = """Search for a solver of few steps for one model, and compare it with the others.

Step lengths and coefficients are fitted so that few steps end where many end; then every solver
without randomness and of fixed cost makes the same samples, of noise not seen before, with as many
calls of the network. The table goes beside the weights as solvers/steps_N.json."""

GUIDANCE = (
    "guidance",
    "guidance_kind",
    "interval",
    "channels_guided",
    "weaker",
    "label_policy",
)
"""The sampling options that change the equation, or the labels it is solved for."""


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    verb, words = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if verb in ("-h", "--help"):
        say("usage: convflow bench WHAT [options]", "")
        say("How fast is convflow on this machine?", "")
        for name, (text, _) in BENCHES.items():
            say(f"  {name} {text}")
        say("", "convflow bench WHAT --help tells more.")
        return 0
    if verb not in BENCHES:
        raise InputError(unknown_name("benchmark", verb, BENCHES))
    return BENCHES[verb][1](words)


def bench_solvers(arguments: Sequence[str]) -> int:
    """Search for a solver of few steps, print every solver's error, write the table."""
    options = _parser(arguments).parse(arguments)
    if options.steps < 2:
        raise InputError("--steps: expected at least 2, got 1; one step has nothing to search")
    if options.teacher_steps < 2 * options.steps:
        raise InputError(
            f"--teacher-steps: expected at least twice the {options.steps} of --steps, got "
            f"{options.teacher_steps}; a teacher has to come closer than its pupil"
        )

    from convflow.bar import Bar
    from convflow.pipeline import Pipeline
    from convflow.samplers.multistep import table_path, write_table
    from convflow.samplers.search import compare, search, teach
    from convflow.seeds import draw_noise
    from convflow.storage import explained, hash_tensors

    pipe = Pipeline.from_pretrained(options.model, weights=options.weights, device=options.device)
    place = pipe.folder if pipe.folder and Path(options.model).exists() else Path()
    out = options.out or table_path(place, options.steps)
    check_out(out)
    labels = chosen_labels(options, pipe.class_names)
    # A stored solver is not asked for its table, nor whether it takes the guidance.
    given = {**sampling_options(options), "solver": "euler", "steps": options.steps}
    samples = pipe.samples(labels, **given)
    if samples.weaker is not None:
        samples.weaker.requires_grad_(False)
    pipe.model.requires_grad_(False)
    model = samples.velocity()

    def starts(first: int) -> list[tuple[Tensor, Tensor]]:
        found, last = [], first + options.num
        for i in range(first, last, options.batch_size):
            part = range(i, min(i + options.batch_size, last))
            noise = draw_noise(samples.seed, part, samples.shape)
            found.append((noise.to(pipe.device), samples.labels(part).to(pipe.device)))
        return found

    parts = (starts(i * options.num) for i in range(3))
    fit, held_out, unseen = (teach(model, part, options.teacher_steps) for part in parts)
    shown = sys.stderr.isatty()
    with Bar(total=options.iterations, disable=not shown) as bar:

        def tell(iteration: int, least: float) -> None:
            bar.set_description(f"error {least:.2e}")
            bar.update()

        table = search(
            model, fit, held_out, options.steps, iterations=options.iterations, progress=tell
        )
    compared = compare(model, unseen, table, samples.process.path)
    rows = sorted(compared.items(), key=lambda row: row[1][1])
    say(f"{'solver':12}{'calls':>7}{'error':>12}")
    for name, (calls, error) in rows:
        say(f"{name:12}{calls:7}{error:12.2e}")
    told = samples.describe()
    with explained(out):
        write_table(
            out,
            table,
            errors={name: {"calls": calls, "error": error} for name, (calls, error) in rows},
            **{key: told[key] for key in ("guidance", "labels", "size", "seed")},
            num=options.num,
            teacher_steps=options.teacher_steps,
            weights_sha256=hash_tensors(pipe.model.state_dict()),
        )
    say(f"rms distance from the end of {options.teacher_steps} steps, as a share; table in {out}")
    return 0


BENCHES = SPEED | {
    "solvers": (
        "MODEL       search for a solver of few steps, compare it with the others",
        bench_solvers,
    )
}
"""What each takes and tells, and what runs it."""


def _parser(arguments: Sequence[str]) -> Parser:
    parser = Parser(
        prog="convflow bench solvers",
        description=SOLVERS,
        allow_abbrev=False,
        usage="convflow bench solvers MODEL [options]",
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=26, width=100
        ),
    )
    add = parser.add_argument
    add("model", help="run folder, checkpoint, model folder or Hub id")
    add("--steps", type=positive, default=6, help="calls of the network (default: 6)")
    add("--iterations", type=natural, default=200, help="of the search (default: 200)")
    add("--teacher-steps", type=positive, default=100, help="steps to end like (default: 100)")
    add(
        "--num",
        type=positive,
        default=64,
        help="samples to fit, choose and compare (default: 64 each)",
    )
    add("--batch-size", type=positive, default=16, help="samples at once (default: 16)")
    add("--out", type=Path, help="the table (default: solvers/steps_N.json beside the weights)")
    add("--size", type=size, help="height x width, e.g. 48x32 (default: as trained)")
    add_sampling_options(parser, arguments, GUIDANCE)
    add("--seed", type=natural, default=0, help="sample i depends on (seed, i) alone")
    add("--weights", choices=("ema", "raw"), default="ema", help="averaged or last weights")
    add("--device", default="auto", help="auto, cpu, ...")
    return parser
