"""Contrastive flow matching against its formula for each image."""

from typing import get_args

import pytest
import torch

from convflow.objectives.contrastive import Contrastive
from convflow.processes.flow import FlowMatching
from convflow.processes.prediction import Kind
from tests.objectives.encoder import inputs_of, network_of, pictures
from tests.tolerance import assert_close_rms


@pytest.mark.parametrize("prediction", get_args(Kind))
def test_it_is_the_error_against_the_target_of_the_next_image(prediction):
    network, _ = network_of("flowdcn")
    process = FlowMatching(prediction=prediction)
    objective = Contrastive(network, process)
    batch = inputs_of(pictures(), process)
    batch.first.output = torch.randn(4, 3, 16, 16)
    found = objective.terms(None, batch, None)["negative_error"]
    noise, t = batch.first.draws
    targets = {
        "velocity": batch.data - noise, "data": batch.data, "noise": noise, "score": -noise
    }  # fmt: skip
    for image in range(4):
        output = batch.first.output[image] * (1 - t[image] if prediction == "score" else 1)
        error = output - targets[prediction][(image + 1) % 4]
        assert_close_rms(found[image], -error.square().mean())


def test_an_image_alone_has_no_other():
    network, process = network_of("flowdcn")
    batch = inputs_of(pictures(1), process)
    batch.first.output = torch.randn(1, 3, 16, 16)
    assert Contrastive(network, process).terms(None, batch, None)["negative_error"].tolist() == [0]
