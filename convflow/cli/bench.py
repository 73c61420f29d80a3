"""`convflow bench`: finds the benchmark; `solvers`, which makes a solver from measurements."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from convflow.cli.main import Parser, wide
from convflow.cli.options import (
    WEIGHTS_HELP,
    add_sampling_options,
    chosen_labels,
    natural,
    positive,
    sampling_options,
    size,
    weight_set,
)
from convflow.cli.output import say
from convflow.cli.speed import SPEED_BENCHES, check_out
from convflow.types import check_name

SOLVERS_HELP = """\
Search for a solver with few steps for one model, and compare it with other solvers.

The search fits step lengths and coefficients, so that few steps end where many steps end. Then
every solver of fixed cost without randomness makes the same samples, from noise that the search has
not used and with the same number of network calls. The table is written beside the weights as
solvers/steps_N.json."""

GUIDANCE = ("guidance", "guidance_kind", "interval", "channels_guided", "weaker", "label_policy")
"""The sampling options that change the equation, or the labels it is solved for."""


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    verb, words = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if verb in ("-h", "--help"):
        say("usage: convflow bench WHAT [options]", "")
        say("Measure speed on this machine.", "")
        for name, (text, _) in BENCHES.items():
            say(f"  {name} {text}")
        say("", "convflow bench WHAT --help describes a benchmark.")
        return 0
    check_name("benchmark", verb, BENCHES)
    return BENCHES[verb][1](words)


def bench_solvers(arguments: Sequence[str]) -> int:
    """Search for a solver of few steps, print every solver's error, write the table."""
    options = _parser(arguments).parse(arguments)
    from convflow.bar import Bar
    from convflow.bench.solvers import SolverSearch, search_solver
    from convflow.pipeline import Pipeline
    from convflow.samplers.multistep import table_path, write_table
    from convflow.storage import explained, hash_tensors

    settings = SolverSearch(**{f.name: getattr(options, f.name) for f in fields(SolverSearch)})
    pipe = Pipeline.from_pretrained(options.model, weights=options.weights, device=options.device)
    place = pipe.folder if pipe.folder and Path(options.model).is_dir() else Path()
    out = options.out or table_path(place, options.steps)
    check_out(out)
    labels = chosen_labels(options, pipe.class_names)
    # A stored solver is not asked for its table, nor whether it takes the guidance.
    given = {**sampling_options(options), "solver": "euler", "steps": options.steps}
    samples = pipe.samples(labels, **given)
    with Bar(total=options.iterations, disable=not sys.stderr.isatty()) as bar:

        def tell(iteration: int, least: float) -> None:
            bar.set_description(f"error {least:.2e}")
            bar.update()

        table, compared = search_solver(pipe, samples, settings, tell)
    say(f"{'solver':12}{'calls':>7}{'error':>12}")
    for name, (calls, error) in compared.items():
        say(f"{name:12}{calls:7}{error:12.2e}")
    description = samples.describe()
    with explained(out):
        write_table(
            out,
            table,
            errors={name: {"calls": n, "error": error} for name, (n, error) in compared.items()},
            **{key: description[key] for key in ("guidance", "labels", "size", "seed")},
            num=options.num,
            teacher_steps=options.teacher_steps,
            weights_sha256=hash_tensors(pipe.model.state_dict()),
        )
    say(f"error: relative rms distance to the end of {options.teacher_steps} steps; table in {out}")
    return 0


BENCHES = SPEED_BENCHES | {
    "solvers": (
        "MODEL       search for a solver with few steps, and compare it with others",
        bench_solvers,
    )
}
"""What each takes and tells, and what runs it."""


def _parser(arguments: Sequence[str]) -> Parser:
    parser = Parser(
        prog="convflow bench solvers",
        description=SOLVERS_HELP,
        usage="convflow bench solvers MODEL [options]",
        formatter_class=wide,
    )
    add = parser.add_argument
    add("model", help="run folder, checkpoint, model folder or Hub id")
    add("--steps", type=positive, default=6, help="network calls of the solver (default: 6)")
    add("--iterations", type=natural, default=200, help="iterations of the search (default: 200)")
    add("--teacher-steps", type=positive, default=100, help="steps of the target (default: 100)")
    add(
        "--num",
        type=positive,
        default=64,
        help="samples to fit with, to choose with and to compare with (default: 64 each)",
    )
    add("--batch-size", type=positive, default=16, help="samples to generate at once (default: 16)")
    add("--out", type=Path, help="table file (default: solvers/steps_N.json beside the weights)")
    add("--size", type=size, help="height x width, e.g. 48x32 (default: the trained size)")
    add_sampling_options(parser, arguments, GUIDANCE)
    add("--seed", type=natural, default=0, help="sample i depends on (seed, i) alone")
    add("--weights", type=weight_set, default="ema", help=WEIGHTS_HELP)
    add("--device", default="auto", help="device: auto (default), cpu, ...")
    return parser
