"""A repository of the Hugging Face Hub for a model: its files, and their way there."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor

from convflow.evaluation.card import read_card
from convflow.integrations.eval_results import EVAL_RESULTS, eval_results
from convflow.integrations.hub_card import HubPage
from convflow.integrations.movable import (
    copy_autoencoder,
    without_paths,
    write_json,
    write_movable,
    write_network,
)
from convflow.models.stored import SHARD_BYTES
from convflow.pipeline import Pipeline
from convflow.settings.read import flatten
from convflow.storage import read_json, write_text, writing_file
from convflow.training.curves import draw_curves, read_curves
from convflow.types import InputError

log = logging.getLogger("convflow")

GRID_IMAGES, SINGLE_IMAGES = 16, 8
"""Images in the grid of a page, and how many of them also have a file of their own."""
REPLACED = [
    "model*.safetensors*", "samples/*", "training/*", "scores/*", "autoencoder/*", "solvers/*",
    f"{EVAL_RESULTS}/*",
]  # fmt: skip
"""Files of an earlier upload that go where the new one has none of their name."""


def write_repository(
    pipe: Pipeline,
    folder: Path,
    page: HubPage,
    *,
    run: Path | None = None,
    cards: Sequence[Path] = (),
    nearest: Path | None = None,
    most: int = SHARD_BYTES,
) -> HubPage:
    """Write the files of a repository into an empty folder.

    Args:
        pipe: the model.
        folder: where to.
        page: repository, licence and datasets; the rest is filled in.
        run: folder of the model's training, for its settings and curve.
        cards: result cards of `convflow evaluate`.
        nearest: the .json that `convflow nearest` wrote.
        most: bytes of weights in one file.

    Returns:
        The page as it was written.

    Raises:
        InputError: a damaged card, two cards of one name, or a model whose parts cannot move.
    """
    names = [card.name for card in cards]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(
            f"--card: expected files of different names, got two called {twice[0]}; rename one"
        )
    read = tuple(read_card(card) for card in cards)
    looked = None if nearest is None else read_nearest(nearest)
    write_network(pipe, folder, most)
    write_movable(pipe, folder, copy_autoencoder(pipe, folder, "autoencoder"))
    for path, card in zip(cards, read, strict=True):
        write_json(folder / "scores" / path.name, without_paths(read_json(path)))
        if listed := eval_results(card, page.datasets):
            (folder / EVAL_RESULTS).mkdir(exist_ok=True)
            write_text(folder / EVAL_RESULTS / f"{path.stem}.yaml", listed)
    page = dataclasses.replace(
        page,
        cards=read,
        nearest=looked,
        samples=_write_samples(pipe, folder),
        own_code=any(folder.glob("*.py")),
    )
    if run is not None:
        seen = None if pipe.folder is None else _images_seen(pipe.folder)
        page = dataclasses.replace(page, images_seen=seen)
        page = _write_training(run, folder / "training", page)
    write_text(folder / "README.md", page.text(pipe))
    return page


def find_run(model: str | Path) -> Path | None:
    """Return the run folder of a run, a checkpoint, or its `ema` or `raw`; None of other models."""
    place = Path(model)
    places = [place, *list(place.resolve().parents)[1:3]] if place.is_dir() else []
    return next((at for at in places if (at / "metrics.jsonl").is_file()), None)


def own_cards(folder: Path | None) -> list[Path]:
    """Return the result card `card.json` that a model folder holds, nothing of other folders."""
    if folder is None or not (folder / "card.json").is_file():
        return []
    try:
        read_card(folder / "card.json")
    except InputError:  # a file of another program
        return []
    return [folder / "card.json"]


def read_nearest(path: Path) -> dict[str, Any]:
    """Return the numbers of `convflow nearest`, or raise InputError."""
    numbers = read_json(path.with_suffix(".json"))
    if not {"verdict", "training_images", "nearest"} <= numbers.keys():
        raise InputError(
            f"expected the .json that convflow nearest writes beside its page, got {path}; give it"
        )
    return numbers


def check_token() -> None:
    """Raise InputError where there is no token of the Hub."""
    if get_token() is None:
        raise InputError(
            "expected a token of the Hugging Face Hub, found none; run: hf auth login, or set "
            "HF_TOKEN, or write the files with --dry-run FOLDER"
        )


def upload(
    folder: Path,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    space: bool = False,
) -> str:
    """Upload a folder as one commit of a repository, which is made where it is missing.

    Args:
        folder: with all files.
        repository: owner and name.
        private: whether only its owner sees it.
        revision: a branch, made where it is missing; None for the main one.
        space: whether it is a Space that runs with gradio.

    Returns:
        The address of the repository.

    Raises:
        InputError: no token, no network, no permission, or a public repository where a private one
            is wanted.
    """
    kind = "space" if space else "model"
    check_token()
    with _explained(repository):
        api = HfApi()
        url = api.create_repo(
            repository,
            repo_type=kind,
            private=private,
            exist_ok=True,
            space_sdk="gradio" if space else None,
        )
        if private and not api.repo_info(repository, repo_type=kind).private:
            raise InputError(
                f"expected a private repository, got the public {repository}; make it private on "
                "its page, or choose another name"
            )
        if revision is not None:
            api.create_branch(repository, repo_type=kind, branch=revision, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            repo_type=kind,
            folder_path=folder,
            revision=revision,
            commit_message="Upload a model of convflow",
            delete_patterns=None if space else REPLACED,
        )
    return str(url)


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    """Turn an error of the Hub or of the network into an InputError that says what to do."""
    try:
        yield
    except InputError:
        raise
    except HfHubHTTPError as error:
        code = getattr(error.response, "status_code", None)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        cure = {
            400: "mend what it names",
            401: "the token is not valid: run hf auth login",
            403: "the token may not write there: give your own name as owner, or a token that may",
            404: "check the name of the owner, and that the token may write there",
            409: "another change came in between, or the name is taken: push again, or rename it",
        }.get(code or 0, "try again later")
        raise InputError(
            f"the Hugging Face Hub refused {repository} ({code}: {reason}); {cure}"
        ) from error
    except ValueError as error:  # the client looks at names and at the page before it sends them
        reason = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
        raise InputError(
            f"expected what the Hugging Face Hub takes for {repository}, got what its client "
            f"refuses ({reason}); mend what it names"
        ) from error
    except Exception as error:  # of the network
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the Hugging Face Hub cannot be reached for {repository} ({reason}); check the "
            "connection, or write the files with --dry-run FOLDER"
        ) from error


def _write_samples(pipe: Pipeline, folder: Path) -> tuple[tuple[str, str], ...]:
    """Write a grid of samples and the first few of them; return label and file of each."""
    from convflow.data.grid import tile
    from convflow.videos import USUAL_RATE, tile_videos, write_video

    count = pipe.model.num_classes
    spread = [i * count // GRID_IMAGES for i in range(GRID_IMAGES)] if count > GRID_IMAGES else None
    made = pipe(spread, num=GRID_IMAGES, batch_size=GRID_IMAGES)
    zoom = max(1, 128 // max(made.pixels.shape[-2:]))
    ending = ".gif" if pipe.model.video else ".png"

    def write(name: str, pixels: Tensor, gap: int) -> None:
        if pipe.model.video:
            write_video(folder / name, tile_videos(pixels, zoom=zoom, gap=gap), USUAL_RATE)
            return
        with writing_file(folder / name) as draft:
            tile(pixels, zoom=zoom, gap=gap).save(draft, format="png")

    (folder / "samples").mkdir()
    names = [("", f"samples{ending}")]
    for i in range(SINGLE_IMAGES):
        names.append((made.labels[i], f"samples/{i:03}{ending}"))
        write(names[-1][1], made.pixels[i : i + 1], gap=0)
    write(names[0][1], made.pixels, gap=2)
    return tuple(names)


def _write_training(run: Path, folder: Path, page: HubPage) -> HubPage:
    """Write the settings of a run, and its losses where matplotlib is there to draw them."""
    settings = without_paths(read_json(run / "config.json"))
    write_json(folder / "config.json", settings)
    try:
        curves = read_curves(run)
    except InputError:  # too short a run to have logged a step
        curves = {}
    losses = {name: curve for name, curve in curves.items() if "loss" in name}
    drawn = bool(losses) and find_spec("matplotlib") is not None
    if drawn:
        draw_curves({page.name: losses}, folder / "loss.png")
    elif losses:
        log.info("the curve is left out, for matplotlib is missing; pip install 'convflow[plots]'")
    return dataclasses.replace(page, training=flatten(settings), curve=drawn)


def _images_seen(folder: Path) -> int | None:
    """Return how many images the weights of a folder have seen, None where no state tells it."""
    states = [place / "state.json" for place in (folder, folder.resolve().parent)]
    state = next((path for path in states if path.is_file()), None)
    return None if state is None else read_json(state).get("images_seen")
