"""The result card: scores, and everything they depend on, in one JSON file.

Two cards can be compared when they differ in nothing but the model.
"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal

import msgspec

from convflow import __version__
from convflow.settings.read import differences, flatten
from convflow.storage import read_json, write_text
from convflow.types import InputError

ORIGIN = ("reference.resize", "reference.selection", "reference.detector", "reference.library")
"""How a reference was made; the hash of its images says what it is."""

MAY_DIFFER = ("model", "scores", "better", "samples_sha256", "machine", *ORIGIN)
"""What compared cards may differ in: the model, what came out, and where it ran."""

FULL_COUNT = 50_000

DISTANCES = ("FD", "sFD", "KD", "FID", "sFID", "KID", "FDD", "sFDD", "KDD")
"""What was better when lower in cards that do not say so themselves, of versions up to 0.2."""

DIRECTIONS = {
    "lower": "lower is better",
    "higher": "higher is better",
    "spread": "its standard deviation over subsets",
}


@dataclass(frozen=True)
class Card:
    """Scores and how they were made.

    Attributes:
        model: what was scored: weights with their hash, or the name of given images.
        sampling: solver, steps, guidance, labels, seed rule, codec, precision; None for images
            that were given.
        pictures: count, size, selection and resize chain of the images.
        detector: name, hash of the weights, resize chain, precision.
        reference: name, hash, count and so on of the images compared with.
        metrics: the constants of the metrics.
        library: version and commit of convflow.
        machine: device and torch version; free to differ.
        scores: by title, with the count in it unless it is 50,000.
        better: "lower", "higher" or "spread" for each score, a word of `DIRECTIONS`.
        samples_sha256: of the scored images in their order.
    """

    model: dict[str, Any]
    sampling: dict[str, Any] | None
    pictures: dict[str, Any]
    detector: dict[str, Any]
    reference: dict[str, Any]
    metrics: dict[str, Any]
    library: dict[str, Any]
    machine: dict[str, Any]
    scores: dict[str, float] = field(default_factory=dict)
    samples_sha256: str = ""
    better: Mapping[str, str] = field(default_factory=dict)
    format: Literal[1] = 1

    def write(self, path: Path) -> None:
        """Write the card whole or not at all; parent folders are made."""
        write_json(path, dataclasses.asdict(self))

    def table(self) -> str:
        """Return the scores, a line each, with the direction in which they are better."""
        return "\n".join(
            f"{title:20} {_shown(value):>10}  {self.direction(title)}"
            for title, value in self.scores.items()
        )

    def direction(self, title: str) -> str:
        """Return in words which values of a score are better."""
        distance = title.partition("-")[0] in DISTANCES
        usual = "spread" if "-std" in title else "lower" if distance else "higher"
        word = self.better.get(title, usual)
        return DIRECTIONS.get(word, word)


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Write a dict as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(tree, indent=2) + "\n")


def read_card(path: Path) -> Card:
    """Return the card in a file.

    Raises:
        InputError: no such file, or no result card.
    """
    if not path.is_file():
        raise InputError(f"expected a result card at {path}, found no such file; check the path")
    try:
        return msgspec.convert(read_json(path), Card)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise InputError(
            f"expected a result card of convflow evaluate, got {path} ({error}); "
            "give the .json it wrote"
        ) from error


def titled(title: str, count: int) -> str:
    """Return the title of a score with its sample count, which 50,000 samples alone may drop.

    >>> titled("FID", 2000), titled("FID", 1797), titled("FID", 50_000)
    ('FID-2k', 'FID-1797', 'FID')
    """
    if count == FULL_COUNT:
        return title
    return f"{title}-{count // 1000}k" if count % 1000 == 0 else f"{title}-{count}"


def metric_type(title: str) -> str:
    """Return what a score measures, in small letters, without its sample count.

    >>> metric_type("FID"), metric_type("KD-std-1k"), metric_type("video-FD-1797")
    ('fid', 'kd-std', 'video-fd')
    """
    return re.sub(r"-\d+k?$", "", title).lower()


def _unlike(a: dict[str, Any], b: dict[str, Any], ignored: Sequence[str]) -> list[str]:
    """Return the dotted keys where cards differ, without the keys or groups that may."""
    return [
        key
        for key in differences(a, b)
        if not any(key == name or key.startswith(f"{name}.") for name in ignored)
    ]


def compare_cards(paths: Sequence[Path], allow: Sequence[str] = ()) -> str:
    """Return a table of the scores of several cards, a column each.

    Args:
        paths: of the cards.
        allow: dotted keys, or groups, that may differ besides the model.

    Raises:
        InputError: the cards differ in something else; `contrast` shows it all.
    """
    read = [read_card(path) for path in paths]
    cards = [dataclasses.asdict(card) for card in read]
    for word in allow:
        if not any(k == word or k.startswith(f"{word}.") for c in cards for k in flatten(c)):
            raise InputError(f"--allow: expected a key of the cards, got {word!r}; look into one")
    for path, card in zip(paths[1:], cards[1:], strict=True):
        found = _unlike(cards[0], card, (*MAY_DIFFER, *allow))
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise InputError(
                f"{paths[0]} and {path} cannot be compared, they differ in "
                f"{', '.join(found[:3])}{more}; score both in the same way, or --allow KEY what "
                "you know to be harmless"
            )
    titles = {title: card.direction(title) for card in reversed(read) for title in card.scores}
    titles = {title: titles[title] for card in read for title in card.scores}
    names = [
        str(card["model"].get("name", path.stem)) for path, card in zip(paths, cards, strict=True)
    ]
    twice = len(set(names)) < len(names)
    heads = [f"{n} ({p.stem})" if twice else n for n, p in zip(names, paths, strict=True)]
    width = max(10, *map(len, heads))
    lines = [" " * 20 + "".join(f"  {head:>{width}}" for head in heads)]
    for title, direction in titles.items():
        cells = [_shown(card["scores"].get(title)) for card in cards]
        row = "".join(f"  {cell:>{width}}" for cell in cells)
        lines.append(f"{title:20}{row}  {direction}")
    if others := contrast(paths):
        lines += ["", others, "the scores compare but for these differences, which are allowed"]
    return "\n".join(lines)


def contrast(paths: Sequence[Path], allow: Sequence[str] = ()) -> str:
    """Return a table of what cards differ in besides the model, "" where that is nothing.

    A row is a setting, a column a card; "-" stands for nothing.

    Raises:
        InputError: no such file, or no result card.
    """
    cards = [dataclasses.asdict(read_card(path)) for path in paths]
    ignored = (*MAY_DIFFER, *allow)
    keys = dict.fromkeys(key for card in cards[1:] for key in _unlike(cards[0], card, ignored))
    if not keys:
        return ""
    flat = [flatten(card) for card in cards]
    rows = [["setting", *map(str, paths)]]
    rows += [[key, *_brief([card.get(key) for card in flat])] for key in keys]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _brief(values: Sequence[Any]) -> list[str]:
    """Return values as texts, long ones cut where they can still be told apart."""
    texts = ["-" if value is None else repr(value) for value in values]
    short = [text if len(text) <= 32 else f"{text[:14]}...{text[-14:]}" for text in texts]
    return short if len(set(short)) == len(set(texts)) else texts


def library() -> dict[str, str | None]:
    """Return the version and, where it is known, the commit of the running convflow."""
    return {"convflow": __version__, "commit": _commit()}


def _commit() -> str | None:
    package = Path(__file__).parents[1]

    def git(*words: str) -> str | None:
        call = ["git", "-C", str(package), *words]
        try:
            answer = subprocess.run(call, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return answer.stdout.strip()

    # A virtual environment may lie within another project's repository.
    if git("ls-files", "--error-unmatch", str(package / "types.py")) is not None:
        commit = git("rev-parse", "HEAD")
        return f"{commit}-dirty" if git("status", "--porcelain", "--", str(package)) else commit
    try:
        origin = distribution("convflow").read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    return json.loads(origin or "{}").get("vcs_info", {}).get("commit_id")


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if 1e-3 <= abs(value) < 1e5 else f"{value:.3g}"
