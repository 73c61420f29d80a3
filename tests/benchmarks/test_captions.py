"""Samples are held against the pictures of their captions."""

import json

import torch
from PIL import Image

from benchmarks.quality import captions as module


def test_only_pictures_of_the_samples_shape_are_read(tmp_path):
    lines = []
    for name, size, grey in (
        ("a.png", (32, 32), 10),
        ("b.png", (48, 32), 20),
        ("c.png", (64, 64), 30),
    ):
        Image.new("L", size, grey).save(tmp_path / name)
        lines.append(json.dumps({"file_name": name, "caption": name[0]}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    captions, pictures = module.read(tmp_path, (32, 32))
    assert captions == ["a", "c"]
    assert pictures.shape == (2, 3, module.SIDE, module.SIDE)
    assert pictures.mean((1, 2, 3)).tolist() == [10, 30]


def test_a_place_counts_the_pictures_that_are_nearer_than_its_own():
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(12, 3, module.SIDE, module.SIDE, generator=generator)
    captions = ["same", "same", *"abcdefghij"]
    samples = pictures[[1, 4, 11]]
    assert module.places(samples, pictures, captions, [0, 4, 11]) == [0, 0, 0]
    found = module.places(pictures, pictures, captions, [11, *range(11)])
    assert found[0] > 0
    assert found[1] == 0  # of the same caption
    assert all(0 < place < 12 for place in found[2:])
    assert module.shares([0, 0, 9, 10]) == {"first": "0.500", "ten": "0.750", "rank": "5.5"}
    assert module.reduce(torch.full((1, 3, 64, 64), 7, dtype=torch.uint8)).unique().tolist() == [7]
