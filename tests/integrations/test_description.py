"""What is written beside a network suffices to sample with it."""

import json

import pytest
import torch

from convflow.integrations.description import KEY, describe_model, told_times, write_description
from convflow.models.zoo import create_model
from convflow.processes.ddpm import DDPM
from convflow.processes.flow import FlowMatching
from convflow.processes.meanflow import MeanFlow
from convflow.seeds import draw_noise


@pytest.mark.parametrize(
    ("process", "noise", "data"),
    [(FlowMatching(), 0, 1), (MeanFlow(), 0, 1), (DDPM(), 999, 0)],
)
def test_times_are_those_that_the_network_is_told(process, noise, data):
    assert told_times(process) == {"noise": noise, "data": data}


def test_it_is_json_and_knows_the_model(pipe):
    (text,) = write_description(pipe, "pets").values()
    found = json.loads(text)
    assert found == json.loads(json.dumps(describe_model(pipe, "pets")))
    assert (found["name"], found["process"]["kind"], found["prediction"]) == (
        "pets",
        "flow",
        "velocity",
    )
    assert found["class_names"] == list(pipe.class_names)
    assert (found["null_label"], found["multiple"]) == (5, pipe.multiple)
    assert (found["channels"], found["value_range"]) == (3, [-1, 1])
    settings = found["network"]
    again = create_model(settings.pop("family"), **settings)
    again.load_state_dict(pipe.model.state_dict())
    assert [*write_description(pipe, "pets")] == [KEY]


@torch.no_grad()
def test_a_stranger_can_sample_with_what_it_says(pipe):
    """Euler's rule, written from the description alone, gives the pipeline's pictures."""
    told = describe_model(pipe, "pets")
    low, high = told["value_range"]
    x = draw_noise(3, [0], (told["channels"], *told["size"]))
    steps, times = 4, told["time"]
    for step in range(steps):
        t = times["noise"] + (times["data"] - times["noise"]) * step / steps
        x = x + pipe.model(x, torch.tensor([t]), torch.tensor([1])) / steps
    levels = ((x - low) / (high - low) * 255).clamp(0, 255).round()
    expected = pipe(1, num=1, steps=steps, guidance=1.0, seed=3).pixels
    assert (levels - expected).abs().max() <= 1
