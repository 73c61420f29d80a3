"""`convflow push`: upload a model to the Hugging Face Hub, with a page that describes it."""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from convflow.cli.main import Parser, wide
from convflow.cli.options import WEIGHTS_HELP, weight_set
from convflow.cli.output import plain, say
from convflow.shipped import SHIPPED_LICENCE, called
from convflow.types import InputError

ABOUT_PUSH = """Upload a model to the Hugging Face Hub: the weights, everything that a pipeline
needs, and a page (README.md) with sample images, settings, scores and limits. --dry-run FOLDER
writes the same files to a new folder, and needs no network and no token.

A token that may write comes from hf auth login, or from HF_TOKEN."""

PUSH_EXAMPLES = """examples
  convflow push runs/pets me/pets --license mit --card scores/pets.json --nearest nearest.json
  convflow push runs/pets me/pets --dry-run upload
  convflow sample me/pets@v1"""


OF_MODELS = ("license", "dataset", "card", "nearest", "weights", "device")
"""Options that mean nothing with --space."""


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse(arguments)
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", options.repository, re.ASCII):
        raise InputError(
            f"expected a repository like owner/name, got {options.repository!r}; put your name "
            "on the Hub before a slash"
        )
    if options.space:
        _check_space(options)
    if options.dry_run is not None and options.dry_run.exists():
        raise InputError(f"--dry-run: expected a new folder, got {options.dry_run}; choose another")

    from convflow.storage import writing_folder

    if options.dry_run is not None:
        with writing_folder(options.dry_run) as draft:
            _write(options, draft)
        say(f"wrote {plain(options.dry_run)}; nothing was uploaded")
        return 0

    from convflow.integrations.push import check_token, upload

    check_token()
    with tempfile.TemporaryDirectory(prefix="convflow-push-") as place:
        _write(options, Path(place))
        address = upload(
            Path(place),
            options.repository,
            private=options.private,
            revision=options.revision,
            space=options.space,
        )
    say(address)
    return 0


def _check_space(options: argparse.Namespace) -> None:
    """Raise InputError for what a Space cannot have: a model of yours, or a page of a model."""
    from convflow.hub import is_id

    for name in OF_MODELS:
        if getattr(options, name):
            raise InputError(f"--{name}: expected none with --space, got one; leave it out")
    if called(options.model) != options.model:
        return
    if Path(options.model).exists() or not is_id(options.model):
        raise InputError(
            f"--space: expected a model on the Hub like owner/name, got {options.model}; push the "
            "model first, then its Space"
        )


def _write(options: argparse.Namespace, folder: Path) -> None:
    """Write what is to be uploaded."""
    if options.space:
        try:
            from convflow.demo.space import make_space
        except ImportError as error:
            raise InputError(
                f"--space: expected the web demo, which cannot be imported ({error}); leave it out"
            ) from error
        make_space(folder, called(options.model))
        return

    from convflow.integrations.hub_card import HubPage
    from convflow.integrations.push import find_run, own_cards, write_repository
    from convflow.pipeline import Pipeline

    weights, device = options.weights or "ema", options.device or "auto"
    pipe = Pipeline.from_pretrained(options.model, weights=weights, device=device)
    usual = "unknown" if called(options.model) == options.model else SHIPPED_LICENCE
    page = HubPage(
        options.repository,
        options.license or usual,
        tuple(options.dataset),
        revision=options.revision,
    )
    run = find_run(options.model)
    cards = options.card or own_cards(pipe.folder)
    write_repository(pipe, folder, page, run=run, cards=cards, nearest=options.nearest)


def _parser() -> Parser:
    parser = Parser(
        prog="convflow push",
        usage="convflow push MODEL OWNER/NAME [options]",
        description=ABOUT_PUSH,
        epilog=PUSH_EXAMPLES,
        formatter_class=wide,
    )
    add = parser.add_argument
    add("model", help="run, checkpoint or model folder, published weights, or Hub id")
    add("repository", metavar="OWNER/NAME", help="repository; made where it is missing")
    add("--private", action="store_true", help="let the owner alone see the repository")
    add("--revision", help="branch to upload to; made where it is missing (default: main)")
    add("--dry-run", type=Path, metavar="FOLDER", help="write the files to a new folder instead")
    known = "upload the web demo of a model on the Hub, or of the package, as a Space"
    add("--space", action="store_true", help=known)
    known = "licence of the weights, as the Hub spells it: mit, ... (default: unknown, or "
    add("--license", help=f"{known}{SHIPPED_LICENCE} for the models of the package)")
    add("--dataset", action="append", default=[], metavar="ID", help="Hub id of training data")
    known = "result card of convflow evaluate; may be repeated (default: card.json of the model)"
    add("--card", type=Path, action="append", default=[], metavar="FILE", help=known)
    known = "page or .json of convflow nearest, whose verdict is stated; it is not uploaded"
    add("--nearest", type=Path, metavar="FILE", help=known)
    add("--weights", type=weight_set, help=f"{WEIGHTS_HELP} (default: ema)")
    add("--device", help="device for the samples: auto (default), cpu, ...")
    return parser
