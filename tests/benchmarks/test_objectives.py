"""The comparison of losses: its settings are those of trainings, its cosine that of a run."""

import json

import pytest

from benchmarks.quality import objectives as module
from convflow.objectives.table import create_objectives
from convflow.recipes import create_config
from convflow.training.overrides import override
from tests.objectives.encoder import network_of


@pytest.mark.parametrize("name", module.LOSSES)
def test_each_contender_is_a_training(name):
    words = module.LOSSES[name].replace("HALF", "64").split()
    config = override(create_config("cifar10.dico"), words)
    network, _ = network_of("dico")
    found = create_objectives(config.objectives, network, config.process)
    assert ("it" in found) == any(word.startswith("--objectives.it") for word in words)


def test_the_cosine_is_the_mean_of_the_last_lines(tmp_path):
    values = [0.0, -0.1, -0.2, -0.3, -0.4, -0.5, -0.9]
    lines = [{"images": 10 * n, "it.negative_cosine": v} for n, v in enumerate(values)]
    text = "\n".join(map(json.dumps, [*lines[:3], {"images": 25, "loss": 1.0}, *lines[3:]]))
    (tmp_path / "metrics.jsonl").write_text(text)
    assert module.cosine_of(tmp_path, "50") == "0.300"
    assert module.cosine_of(tmp_path / "none", "50") == ""
