"""Every setting of every part stands on a page, with its type, its default and its meaning."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest

pytest.importorskip("mkdocs")

from convflow.cli.main import VERBS
from convflow.models.zoo import FAMILIES, SIZES
from convflow.objectives.table import OBJECTIVES, describe_objective
from convflow.samplers.solvers import SOLVERS
from convflow.settings.fields import Count, Pixels, Positive, Share, Width, doc
from convflow.settings.kinds import Table
from convflow.settings.read import hints_of, setting_hints
from convflow.settings.words import help_of, parts_of, rows_of
from convflow.training.config import TrainConfig
from scripts.site import settings

TABLES = {
    "solvers": (SOLVERS, "--"),
    "processes": (settings.PROCESSES, "--process."),
    "parts": (settings.CODECS, "--codec."),
    "parts ": (settings.OPTIMIZERS, "--optim."),
    "parts  ": (settings.ENGINES, "--parallel."),
}


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: "\n".join(write()) for name, write in settings.PAGES.items()}


def section(page: str, title: str) -> str:
    """Return a part of a page, from a heading to the next one."""
    (found,) = [part for part in page.split("\n#") if f"{title}" in part.partition("\n")[0]]
    return found


def test_the_settings_of_a_training(pages: dict[str, str]) -> None:
    config = TrainConfig()
    for key, hint in rows_of(TrainConfig, parts_of(config)):
        if key.startswith(tuple(f"{part}." for part in parts_of(config))):
            continue
        row = f"| `--{key.replace('_', '-')}` |"
        (line,) = [line for line in pages["training"].splitlines() if line.startswith(row)]
        assert help_of(hint) in line.replace("\\|", "|")
        assert line.count(" | ") == 3


@pytest.mark.parametrize("name", TABLES)
def test_the_settings_of_parts(name: str, pages: dict[str, str]) -> None:
    table: Table[Any]
    table, option = TABLES[name]
    for kind, cls in table.items():
        found = section(pages[name.strip()], f"`{kind}`")
        assert f"{cls.__module__.replace('.', '/')}.py" in found
        for key in setting_hints(cls):
            assert f"| `{option}{key.replace('_', '-')}` |" in found


def test_the_settings_of_networks_and_losses(pages: dict[str, str]) -> None:
    for family, cls in FAMILIES.items():
        found = section(pages["networks"], f"`{family}`")
        for key in hints_of(cls.Config):
            (line,) = [
                line
                for line in found.splitlines()
                if line.startswith(f"| `--model.{key.replace('_', '-')}` |")
            ]
            assert not line.endswith("|  |"), f"{family}.{key} has no meaning"
    assert all(f"| `{size}` |" in pages["networks"] for size in SIZES)
    for kind in OBJECTIVES:
        found = section(pages["objectives"], f"`{kind}`")
        for key in describe_objective(kind):
            assert f"`--objectives.{kind}.{key.replace('_', '-')}`" in found


def test_the_smaller_tables_and_the_commands(pages: dict[str, str]) -> None:
    for name in (*settings.LOGGERS, *settings.METRICS):
        assert f"`{name}`" in pages["parts"]
    for verb in VERBS:
        assert f"usage: convflow {verb}" in section(pages["commands"], f" {verb}")


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Count, "whole number, at least 1"),
        (Annotated[Share, doc("help")], "number, above 0, at most 1"),
        (Annotated[Positive | None, doc("help")], "number, above 0 or none"),
        (Literal["a", "b"], "`a`, `b`"),
        (Count | Literal["auto"], "whole number, at least 1 or `auto`"),
        (Width, "whole number, at least 1, at most 16,777,216"),
        (Pixels, "height x width"),
        (tuple[Pixels, ...], "several of: height x width"),
        (tuple[Share, Share], "2 of: number, above 0, at most 1"),
        (dict[str, Any], "settings by name"),
        (bool, "true or false"),
    ],
)
def test_types_in_words(hint: Any, words: str) -> None:
    assert settings.type_of(hint) == words


def test_no_page_shows_code_in_place_of_words(pages: dict[str, str]) -> None:
    for name, page in pages.items():
        for word in ("<class", "typing.", "MISSING", "<function", "Annotated["):
            assert word not in page, f"{name} has {word}"
