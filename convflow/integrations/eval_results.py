"""Scores as the Hugging Face Hub lists them beside a data set: files in `.eval_results/`.

The format is that of hub-docs, eval_results.yaml, which `huggingface_hub` reads as EvalResultEntry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from huggingface_hub.utils import yaml_dump

from convflow.evaluation.card import Card, metric_type

EVAL_RESULTS = ".eval_results"


def dataset_of(card: Card, datasets: Sequence[str]) -> str | None:
    """Return the id of the data set that a card compares with; None where no id has its name.

    A card says the name without the owner.
    """
    name = card.reference.get("name")
    return next((one for one in datasets if one.rpartition("/")[2] == name), None)


def eval_results(card: Card, datasets: Sequence[str]) -> str | None:
    """Return the scores of a card as YAML, an entry for each; None where no data set is its own.

    A task is the name of the score in small letters, such as fid; the notes say how it was made.

    Args:
        card: the scores.
        datasets: ids of data sets on the Hub.
    """
    dataset = dataset_of(card, datasets)
    if dataset is None:
        return None
    entries = [
        {
            "dataset": {"id": dataset, "task_id": metric_type(title)},
            "value": value,
            "notes": _notes(card, title),
        }
        for title, value in card.scores.items()
        if "-std" not in title
    ]
    return yaml_dump(entries, sort_keys=False)


def _notes(card: Card, title: str) -> str:
    """Return what a score depends on, in words."""
    count, sampling = card.pictures.get("count"), card.sampling or {}
    images = f"{count:,} images" if isinstance(count, int) else ""
    solver = f"{sampling.get('solver')} in {sampling['steps']} steps" if "steps" in sampling else ""
    detector = card.detector.get("name")
    features: Any = f"features of {detector}" if detector else ""
    return ", ".join(filter(None, [title, card.direction(title), images, solver, features]))
