"""Pages on every setting and command, made from the code: a hook of mkdocs.

The pages need no file: `on_files` adds them to those of docs/.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import io
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from convflow.cli.main import VERBS
from convflow.codecs import CODECS
from convflow.evaluation.scores import METRICS
from convflow.models.zoo import FAMILIES, SIZES, describe_settings
from convflow.objectives.table import OBJECTIVES, describe_objective
from convflow.parallel.engines import ENGINES
from convflow.processes.process import PROCESSES
from convflow.samplers.solvers import SOLVERS
from convflow.settings.fields import LARGEST_COUNT, Sides
from convflow.settings.kinds import Part
from convflow.settings.read import defaults, hints_of, setting_hints, show, unannotated
from convflow.settings.words import help_of, parts_of, rows_of, shown_at
from convflow.training.config import TrainConfig
from convflow.training.loggers import LOGGERS
from convflow.training.optimizers import OPTIMIZERS

WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text", Any: "any"}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
NEEDED = "needed"
TITLES = {"": "The run itself", "ema": "EMA", "lora": "LoRA"}
HEAD = ["| setting | type | default | meaning |", "|---|---|---|---|"]


class Row(NamedTuple):
    """A setting: its option, its annotation, its default as a word, and what it means."""

    option: str
    hint: Any
    default: str
    meaning: str


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to the site."""
    for name, write in PAGES.items():
        text = "\n".join(write()) + "\n"
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def training() -> Iterator[str]:
    """Yield the page of a training's settings, those of its parts left to their own pages."""
    config = TrainConfig()
    yield "# Settings of a training"
    yield (
        "\n`convflow train RECIPE --data.size 64x64` sets one. `convflow train RECIPE --help` "
        "shows the values of a recipe; the defaults here are those of a `TrainConfig` in Python. "
        "The parts have pages of their own: [networks](networks.md), [processes](processes.md), "
        "[solvers](solvers.md), [losses](objectives.md), [codecs, optimizers, engines, loggers and "
        "metrics](parts.md).\n"
    )
    inside = tuple(f"{key}." for key in parts_of(config))
    groups: dict[str, list[Row]] = {}
    for key, hint in rows_of(TrainConfig, parts_of(config)):
        if key.startswith(inside):
            continue
        shown = "" if key in ("model", "objectives") else shown_at(config, key, hint)
        group = key.rpartition(".")[0].partition(".")[0]
        groups.setdefault(group, []).append(Row(f"--{_dashed(key)}", hint, shown, help_of(hint)))
    for group, rows in sorted(groups.items(), key=lambda item: item[0] != ""):
        owner = getattr(config, group) if group else config
        yield from _section(TITLES.get(group, group.capitalize()), type(owner), rows)


def networks() -> Iterator[str]:
    """Yield the page of the networks and their published sizes."""
    yield "# Networks"
    yield (
        "\n`convflow train RECIPE --model.width 256` sets one, and so does "
        '`create_model("dico-s", width=256)`. [Theory](../theory.md) shows the blocks.\n'
    )
    for name, cls in FAMILIES.items():
        meanings, usual = describe_settings(name), defaults(cls.Config)
        rows = [
            Row(f"--model.{_dashed(key)}", hint, _word(usual[key], hint), meanings.get(key, ""))
            for key, hint in hints_of(cls.Config).items()
        ]
        yield from _section(f"`{name}`", cls, rows)
        sizes = {size: row for size, row in SIZES.items() if row.family == name}
        if sizes:
            yield "| size | settings | parameters | multiply-accumulates at 256 pixels |"
            yield "|---|---|---|---|"
        for size, row in sizes.items():
            own = ", ".join(f"{key} {show(value)}" for key, value in row.settings.items())
            yield f"| `{size}` | {own} | {row.params / 1e6:.1f} M | {row.gmacs[0]:.1f} x 10^9 |"
        yield ""


def processes() -> Iterator[str]:
    """Yield the page of the processes."""
    yield "# Processes"
    yield (
        "\n`convflow train RECIPE --process dfm --process.location 0.5` chooses one, and so does "
        '`create_process("dfm", location=0.5)`. [Theory](../theory.md) explains them.\n'
    )
    yield from _parts(PROCESSES, "--process.")


def solvers() -> Iterator[str]:
    """Yield the page of the solvers."""
    yield "# Solvers"
    yield (
        "\n`convflow sample MODEL --solver heun --steps 20` chooses one, and so does "
        '`create_solver("heun", steps=20)`. A recipe has `--sampling.solver heun --sampling.steps '
        "20`. [Samplers](../samplers.md) says when to use which.\n"
    )
    yield from _parts(SOLVERS, "--")


def objectives() -> Iterator[str]:
    """Yield the page of the losses."""
    yield "# Losses"
    yield (
        "\n`convflow train RECIPE --objectives.repa.weight 0.5` adds one under the name of its "
        "kind; `--objectives.NAME.kind repa` gives it another name. "
        "[Other losses](../objectives.md) explains them.\n"
    )
    for name, cls in OBJECTIVES.items():
        rows = [
            Row(f"--objectives.{name}.{_dashed(key)}", hint, _word(value, hint), help_of(hint))
            for key, (value, hint) in describe_objective(name).items()
        ]
        yield from _section(f"`{name}`", cls, rows)


def parts() -> Iterator[str]:
    """Yield the page of the smaller tables."""
    yield "# Codecs, optimizers, engines, loggers, metrics"
    for title, table, option in (
        ("Codecs", CODECS, "--codec"),
        ("Optimizers", OPTIMIZERS, "--optim"),
        ("Engines for several devices", ENGINES, "--parallel"),
    ):
        yield f"\n## {title}\n\n`{option} {next(iter(table))}` chooses one.\n"
        yield from _parts(table, f"{option}.", "###")
    yield "\n## Loggers\n\n`--monitor.logger wandb` adds one.\n"
    for name, cls in LOGGERS.items():
        yield from _section(f"`{name}`", cls, [], "###")
    yield "\n## Metrics\n\n`convflow evaluate MODEL --metrics fid,is` chooses some.\n"
    yield "| metric | scores | reads |\n|---|---|---|"
    for name, metric in METRICS.items():
        scores = ", ".join(f"{title} ({better})" for title, better in metric.better.items())
        yield f"| `{name}` | {scores} | {', '.join(metric.needs)} |"


def commands() -> Iterator[str]:
    """Yield the page of the commands: what `--help` of each prints."""
    yield "# Commands\n\nThis is what `convflow COMMAND --help` prints."
    for verb, said in VERBS.items():
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            importlib.import_module(f"convflow.cli.{verb}").main(["--help"])
        yield f"\n## {verb}\n\n{said[0].upper()}{said[1:]}.\n\n```text\n{printed.getvalue()}```"


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    page.__name__: page
    for page in (commands, training, networks, processes, solvers, objectives, parts)
}
"""What writes each page of reference/, by its name."""


def _parts(table: dict[str, type[Part]], option: str, mark: str = "##") -> Iterator[str]:
    """Yield a section for each class of a table; names that share a class share the section."""
    for cls in dict.fromkeys(table.values()):
        names = [f"`{name}`" for name, other in table.items() if other is cls]
        usual = defaults(cls)
        rows = [
            Row(f"{option}{_dashed(key)}", hint, _word(usual[key], hint), help_of(hint))
            for key, hint in setting_hints(cls).items()
        ]
        yield from _section(", ".join(names), cls, rows, mark)


def _section(title: str, cls: type, rows: Iterable[Row], mark: str = "##") -> Iterator[str]:
    """Yield a heading, what a class is and where it comes from, and a table of its settings."""
    yield f"\n{mark} {title}\n\n{prose(cls)}\n"
    rows = list(rows)
    if rows:
        yield from HEAD
    for row in rows:
        default = f"`{row.default}`" if row.default not in ("", NEEDED) else row.default
        cells = (f"`{row.option}`", type_of(row.hint), default, row.meaning)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield f"\n{source_of(cls)}\n"


def prose(cls: type) -> str:
    """Return what the docstring of a class says before its sections."""
    text = inspect.cleandoc(cls.__doc__ or "")
    return re.split(r"\n\n(?:Args|Attributes|Raises|Returns|Examples):\n", text)[0]


def source_of(cls: type) -> str:
    """Return a line with the file of a class and what the file says of its sources."""
    module = sys.modules[cls.__module__]
    said = " ".join(inspect.cleandoc(module.__doc__ or "").split())
    return f"*`{cls.__module__.replace('.', '/')}.py`* - {said}"


def type_of(hint: Any) -> str:
    """Return in words what a setting may be, from its annotation."""
    kind, inner = unannotated(hint), typing.get_args(unannotated(hint))
    origin = typing.get_origin(kind)
    if kind == Sides:
        return "height x width"
    if origin is Literal:
        return ", ".join(f"`{word}`" for word in inner)
    if origin in (typing.Union, types.UnionType):
        shown = [type_of(each) for each in inner if each is not type(None)]
        return " or ".join([*shown, *["none"] * (type(None) in inner)])
    if origin is tuple:
        several = inner[-1] is ...
        return f"{'several' if several else len(inner)} of: {type_of(inner[0])}"
    if origin is dict:
        return "settings by name"
    if isinstance(kind, type) and issubclass(kind, Part):
        return ", ".join(f"`{name}`" for name in kind.kinds)
    word = WORDS.get(kind) or getattr(kind, "__name__", str(kind))
    bounds = [
        f"{said} {value:,.10g}"
        for meta in getattr(hint, "__metadata__", ())
        for name, said in BOUNDS.items()
        if (value := getattr(meta, name, None)) is not None and value < LARGEST_COUNT
    ]
    return ", ".join([word, *bounds])


def _word(value: Any, hint: Any) -> str:
    """Return a default as the word that gives it."""
    if value is dataclasses.MISSING:
        return NEEDED
    if isinstance(value, Part):
        return value.kind
    shown = show(value, hint)
    return "none" if shown in (None, "") and not isinstance(value, str) else str(shown)


def _dashed(key: str) -> str:
    return key.replace("_", "-")
