"""Scores in the format that the Hub lists beside a data set."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from convflow.evaluation.card import Card
from convflow.integrations.eval_results import eval_results

SCORES = {"FID-1k": 3.5, "IS-1k": 8.0, "KID-std-1k": 0.1}
CARD = Card(
    {}, {"solver": "heun", "steps": 25}, {"count": 1000}, {"name": "inception"},
    {"name": "cifar10"}, {}, {}, {}, SCORES,
)  # fmt: skip


def test_the_hub_reads_the_entries():
    huggingface_hub = pytest.importorskip("huggingface_hub", "1.4")
    text = eval_results(CARD, ["me/other", "uoft-cs/cifar10"])
    entries = huggingface_hub.parse_eval_result_entries(yaml.safe_load(text))
    assert [(e.dataset_id, e.task_id, e.value) for e in entries] == [
        ("uoft-cs/cifar10", "fid", 3.5),
        ("uoft-cs/cifar10", "is", 8.0),
    ]
    assert entries[0].notes == (
        "FID-1k, lower is better, 1,000 images, heun in 25 steps, features of inception"
    )


@pytest.mark.parametrize("datasets", [[], ["uoft-cs/cifar100"], ["cifar10/other"]])
def test_a_reference_that_is_no_data_set_of_the_hub_has_none(datasets):
    assert eval_results(CARD, datasets) is None


def test_the_kind_of_pictures_is_part_of_the_task():
    card = dataclasses.replace(CARD, scores={"FD": 1.0, "frame-FID-2k": 2.0, "video-FD-1k": 3.0})
    entries = yaml.safe_load(eval_results(card, ["a/cifar10"]))
    assert [e["dataset"]["task_id"] for e in entries] == ["fd", "frame-fid", "video-fd"]


def test_images_that_were_given_have_no_solver():
    card = dataclasses.replace(CARD, sampling=None, pictures={}, detector={})
    (entry, _) = yaml.safe_load(eval_results(card, ["a/cifar10"]))
    assert entry["notes"] == "FID-1k, lower is better"
