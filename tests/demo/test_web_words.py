"""The words of the page name the model, its scores and its making."""

from __future__ import annotations

import json

import pytest
import torch

from convflow.codecs import PixelCodec
from convflow.demo.studio import Moment, Studio
from convflow.demo.web_words import about_making, about_model, about_nearest, plain
from convflow.evaluation.card import Card, write_json
from convflow.pipeline import Pipeline
from convflow.processes.process import PROCESSES, create_process
from tests.cases import build, build_pyramid
from tests.demo.test_studio import training_images

PIXELS = torch.zeros(1, 3, 4, 6, dtype=torch.uint8)


@pytest.fixture
def studio(pipe):
    found = Studio(pipe, "models/tiny")
    yield found
    found.close()


def test_the_model_is_described(studio):
    text = about_model(studio)
    parameters = sum(p.numel() for p in studio.pipe.model.parameters())
    for words in ("`models/tiny`", "flowdcn", f"{parameters:,}", "4 x 6", "multiples of 2", "heun"):
        assert words in text
    assert "holds no result card" in text


def test_the_card_is_shown(studio, tmp_path):
    card = Card(
        model={"name": "tiny"},
        sampling={"solver": "heun", "steps": 20, "guidance": {"scale": 1.5}},
        pictures={"count": 2000},
        detector={"name": "small"},
        reference={"name": "digits"},
        metrics={},
        library={"version": "0.3"},
        machine={},
        scores={"FID-2k": 12.345678},
    )
    write_json(tmp_path / "card.json", vars(card))
    assert json.loads((tmp_path / "card.json").read_text())
    studio.pipe.folder = tmp_path
    text = about_model(studio)
    for words in ("| FID-2k | 12.346 | lower is better |", "heun solver", "guidance 1.5", "digits"):
        assert words in text
    assert "no result card" not in text
    for heading in ("| property | value |", "| score | value | direction |", "| origin | value |"):
        assert f"{heading}\n|---" in text
    assert "| |" not in text


def test_marks_of_markdown_are_shown_as_they_are():
    assert plain("got 1, not *all* <b>") == r"got 1, not \*all\* \<b\>"


@pytest.mark.parametrize("kind", PROCESSES)
def test_the_making_is_told_for_every_process(kind):
    model = build_pyramid() if kind == "dfm" else build("flowdcn")
    process = create_process(kind, **({"variance": "small"} if kind == "ddpm" else {}))
    if process.second_time:
        pytest.skip("a network of two times is built otherwise")
    studio = Studio(Pipeline(model, PixelCodec(), (8, 8), process=process), "x")
    assert "Draw pictures to see" in about_making(studio)
    samples = studio.pipe.samples(steps=8)
    text = about_making(studio, samples, Moment(3, 8, PIXELS), Moment(8, 8, PIXELS))
    assert "after the steps 3, 8 of 8" in text
    assert ("Scale 2 joins after step 6." in text) == (kind == "dfm")
    studio.close()


def test_the_number_of_training_pictures_is_told(pipe, tmp_path):
    training_images(tmp_path / "data")
    studio = Studio(pipe, "x", data=str(tmp_path / "data"))
    assert "nearest of 5 training" in about_nearest(studio).replace("\n", " ")
    studio.close()
