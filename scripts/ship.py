"""Install the averaged weights of a run as a model that comes with the package.

    python scripts/ship.py RUN NAME [--solver ab4 --steps 12] [--card CARD.json]

The weights are stored in bfloat16. NAME is an entry of `convflow.shipped.SHIPPED`. Options of
sampling become the defaults of the model. A card that `convflow evaluate RUN` wrote is copied
beside it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from convflow.cli.main import Parser, wide
from convflow.cli.options import add_sampling_options, sampling_options
from convflow.evaluation.card import read_card
from convflow.integrations.movable import without_paths, write_json
from convflow.pipeline import Pipeline
from convflow.shipped import LARGEST_SHIPPED, SHIPPED, SHIPPED_FOLDER
from convflow.storage import begin_folder, explained, flush, read_json
from convflow.types import InputError, check_name


def ship(run: Path, name: str, sampling: Mapping[str, Any], card: Path | None = None) -> Path:
    """Write the folder of a shipped model anew and return it.

    Args:
        run: of `convflow train`, or a model folder.
        name: in `SHIPPED`.
        sampling: settings that replace those of the run, by name.
        card: a result card of these weights, before or after they were rounded.

    Raises:
        InputError: an unknown name, a model of other classes, one that is too large, or a card of
            another model.
    """
    check_name("shipped model", name, SHIPPED)
    pipe = Pipeline.from_pretrained(run, device="cpu")
    wanted = SHIPPED[name].class_names or "texts"
    if (found := pipe.class_names or ("texts" if pipe.text.used else "no classes")) != wanted:
        raise InputError(f"expected a model of {wanted}, got one of {found}; give another run")
    pipe.sampling = pipe.sampling.varied(pipe.process, **sampling)
    hashes = [pipe.describe()["sha256"]]
    final = SHIPPED_FOLDER / name
    with replacing(final) as place:
        folder = place / name
        pipe.model.bfloat16()
        pipe.save_pretrained(folder)
        hashes.append(Pipeline.from_pretrained(folder, device="cpu").describe()["sha256"])
        if card is not None:
            if read_card(card).model.get("sha256") not in hashes:
                raise InputError(f"expected a card of the weights of {run}, got {card}; score them")
            write_json(folder / "card.json", without_paths(read_json(card)))
        if (size := sum(path.stat().st_size for path in folder.iterdir())) > LARGEST_SHIPPED:
            raise InputError(
                f"expected at most {LARGEST_SHIPPED:,} bytes, got {size:,}; ship a smaller model"
            )
    return final


@contextmanager
def replacing(final: Path) -> Iterator[Path]:
    """Give a folder beside `final` to fill; what `final.name` is there takes its place in the end.

    The old one is moved away first and comes back on any error, so one of both is always whole.
    """
    place = begin_folder(final.with_name(f"new-{final.name}"))
    old, new = place / "old", place / final.name
    with explained(final):
        try:
            yield place
            for path in [*new.rglob("*"), new]:
                flush(path)
            if final.exists():
                final.rename(old)
            new.rename(final)
        finally:
            if old.exists() and not final.exists():
                old.rename(final)
            shutil.rmtree(place, ignore_errors=True)


def main(arguments: Sequence[str]) -> str:
    """Run the command and return what to say."""
    parser = Parser(prog="scripts/ship.py", description=__doc__, formatter_class=wide)
    parser.add_argument("run", type=Path, help="run or model folder")
    parser.add_argument("name", help=f"name of the shipped model: {', '.join(SHIPPED)}")
    parser.add_argument("--card", type=Path, help="result card of the run to put beside it")
    add_sampling_options(parser, arguments)
    options = parser.parse(arguments)
    folder = ship(options.run, options.name, sampling_options(options), options.card)
    said = f"{folder} holds shipped:{options.name}"
    if options.card is None:
        said += (
            f"; it has no card yet: convflow evaluate shipped:{options.name} --reference IMAGES "
            f"--out {folder / 'card.json'}"
        )
    return said


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except InputError as error:
        sys.exit(f"error: {error}")
