"""Every recipe is complete and printable, and its network can be built."""

import json
from pathlib import Path

import pytest
import torch

from convflow import recipes
from convflow.cli.main import main
from convflow.models.zoo import create_model
from convflow.recipes import create_config, list_recipes
from convflow.training.config import from_dict, to_dict
from convflow.training.overrides import describe

NAMES = list(list_recipes())


def test_every_file_has_recipes_and_every_recipe_a_sentence():
    files = {path.stem for path in Path(recipes.__file__).parent.glob("[!_]*.py")}
    assert {name.partition(".")[0] for name in NAMES} == files
    assert all(text.endswith(".") for text in list_recipes().values())


@pytest.mark.parametrize("name", NAMES)
def test_settings_survive_json(name):
    config = create_config(name)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("name", NAMES)
def test_the_network_fits_the_pictures(name):
    config = create_config(name)
    settings = {"num_classes": 10, "in_channels": config.data.channels} | config.model
    with torch.device("meta"):
        model = create_model(settings.pop("name"), **settings)
        x = torch.empty(2, config.data.channels, *config.data.size)
        assert model(x, torch.empty(2), torch.zeros(2, dtype=torch.int64)).shape == x.shape
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 20e6


def test_the_networks_for_cifar10_are_of_one_size():
    counts = {}
    for name in [name for name in NAMES if name.startswith("cifar10.")]:
        settings = {"num_classes": 10, "in_channels": 3} | create_config(name).model
        with torch.device("meta"):
            model = create_model(settings.pop("name"), **settings)
        counts[name] = sum(p.numel() for p in model.parameters())
    assert counts["cifar10.fcdm"] == 4_990_851
    assert max(counts.values()) < 1.15 * min(counts.values())


@pytest.mark.parametrize("name", NAMES)
def test_help_prints_every_key_with_its_value(name, capsys):
    assert main(["train", name, "--help"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    shown = {line[0]: line[1:] for line in lines}
    for key, value, _ in describe(create_config(name)):
        assert shown[f"--{key}"][: len(value.split())] == value.split()
