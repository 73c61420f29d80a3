"""`convflow compare`: the curves of runs in one image, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from convflow.cli.main import Parser
from convflow.cli.output import say
from convflow.types import InputError

COMPARISON = """Draw the curves of runs into one PNG, and print where they stand and in which
settings they differ. Losses and the speed are means over the last tenth of a run; all other numbers
are the last ones."""


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = Parser(prog="convflow compare", description=COMPARISON)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    parser.add_argument(
        "--out", type=Path, default=Path("compare.png"), help="image file (default: compare.png)"
    )
    options = parser.parse(arguments)
    if options.out.suffix != ".png":
        raise InputError(f"--out: expected a .png file, got {options.out}; change its ending")

    from convflow.bench.table import lines
    from convflow.settings.read import show
    from convflow.training.curves import draw_curves, find_differences, read_curves, summarise

    runs = {str(run): run for run in options.runs}
    curves = {name: read_curves(run) for name, run in runs.items()}
    found = {name: summarise(one) for name, one in curves.items()}
    differing = find_differences(list(runs.values()))
    draw_curves(curves, options.out)
    rows = [
        {"": name, **{run: _shown(ends.get(name)) for run, ends in found.items()}}
        for name in dict.fromkeys(name for ends in found.values() for name in ends)
    ]
    say(*lines(rows))
    if len(runs) > 1:
        say("", "settings that differ" if differing else "all settings are the same")
    rows = [
        {"": key, **{run: str(show(value)) for run, value in zip(runs, values, strict=True)}}
        for key, values in differing.items()
    ]
    say(*(lines(rows) if rows else ()), "", f"curves in {options.out}")
    return 0


def _shown(value: float | None) -> str:
    """Return a number in few digits, a dash for none."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
