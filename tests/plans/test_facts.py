"""What a look at images tells a plan."""

import numpy as np
import pytest
import torch
from PIL import Image

from convflow.plans.facts import Facts, look
from convflow.training.config import DataConfig
from convflow.types import InputError

CPU = torch.device("cpu")


def write(folder, sizes, mode="RGB", colour=None):
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate(sizes):
        place = folder / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        channels = {"RGB": 3, "RGBA": 4}[mode]
        pixels = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
        if colour == "grey":
            pixels[:] = pixels[..., :1]
        Image.fromarray(pixels, mode).save(place / f"{i}.png")
    return DataConfig(path=str(folder))


def test_number_median_size_and_classes(tmp_path):
    data = write(tmp_path, [(10, 20), (30, 40), (31, 600)])
    assert look(data, CPU) == Facts(3, 2, (30, 40))


def test_grey_images_and_transparent_ones_are_seen(tmp_path):
    assert look(write(tmp_path / "grey", [(9, 9)] * 3, colour="grey"), CPU).grey
    facts = look(write(tmp_path / "clear", [(9, 9)] * 3, "RGBA"), CPU)
    assert facts.num_transparent == 3
    assert not facts.grey
    assert str(facts) == "3 images of 9x9, 2 classes, 3 transparent ones laid on white"


def test_drawn_images_have_no_size():
    facts = look(DataConfig(path="shapes", size=(32, 32)), CPU)
    assert facts.size is None
    assert "drawn at any size" in str(facts)
    assert look(DataConfig(path="digits"), CPU)[:4] == (1797, 10, (8, 8), True)


def test_no_data_are_refused():
    with pytest.raises(InputError, match="--data: expected a folder"):
        look(DataConfig(path=""), CPU)
