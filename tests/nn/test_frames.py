"""Layers of pictures on each frame, and the convolution along time against torch's own."""

import pytest
import torch
from torch import nn

from convflow.models.zoo import create_model
from convflow.nn.frames import TemporalConv, by_frame, fewer_frames, more_frames, per_frame
from tests.cases import TINY, TINY_DICO, TINY_DIT, build, inputs
from tests.tolerance import assert_close_rms


def test_each_frame_is_a_picture():
    layer, videos = nn.Conv2d(3, 5, 3), torch.randn(2, 3, 4, 6, 6)
    found = by_frame(layer, videos)
    expected = torch.stack([layer(frame) for frame in videos.unbind(2)], 2)
    assert_close_rms(found, expected)
    assert by_frame(layer, videos[:, :, 0]).equal(layer(videos[:, :, 0]))
    features = videos.movedim(1, -1)
    assert per_frame(torch.sum, features[..., 0]).dim() == 0  # four axes are pictures
    assert per_frame(lambda x: x + 1, features).equal(features + 1)


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("kernel", [3, 5])
def test_the_convolution_along_time_is_that_of_torch(frames, kernel):
    layer = TemporalConv(4, kernel).double()
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    x = torch.randn(2, frames, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    weight = layer.weight[..., None, None]
    args = {"padding": (kernel // 2, 0, 0), "groups": 4}
    expected = nn.functional.conv3d(x.movedim(-1, 1), weight, layer.bias, **args).movedim(1, -1)
    found, probe = layer(x), torch.randn(2, frames, 3, 2, 4, dtype=torch.float64)
    assert_close_rms(found, expected)
    of = (x, layer.weight, layer.bias)
    ours, theirs = (torch.autograd.grad((out * probe).sum(), of) for out in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        assert_close_rms(one, other)


def test_a_new_convolution_along_time_changes_nothing():
    x = torch.randn(2, 5, 3, 2, 4)
    assert TemporalConv(4)(x).equal(x)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_frames_are_groups_of_channels_and_back(factor):
    x = torch.randn(2, 4, 3, 3, 6 * factor)
    more = more_frames(x, factor)
    assert more.shape == (2, 4 * factor, 3, 3, 6)
    assert more[:, factor - 1].equal(x[:, 0, ..., -6:])
    assert fewer_frames(more, factor).equal(x)


@pytest.mark.parametrize(
    ("family", "settings", "temporal"),
    [
        ("flowdcn", TINY, "conv"),
        ("flowdcn", TINY | {"mix": "dico"}, "conv"),
        ("dico", TINY_DICO, "conv"),
        ("fcdm", TINY_DICO, "conv"),
        ("sit", TINY_DIT, "factorised"),
        ("sit", TINY_DIT | {"positions": "rotary"}, "factorised"),
    ],
)
def test_a_network_of_videos_begins_as_that_of_pictures_on_each_frame(family, settings, temporal):
    torch.manual_seed(0)
    pictures = create_model(family, **settings).eval()
    for parameter in pictures.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    videos = create_model(family, **settings, temporal=temporal).eval()
    videos.begin_from(pictures)
    x, t, y = inputs(videos)
    expected = torch.stack([pictures(frame, t, y) for frame in x.unbind(2)], 2)
    assert_close_rms(videos(x, t, y), expected)


@pytest.mark.parametrize("case", ["flowdcn-video", "dico-video", "sit-factorised", "sit-full"])
def test_frames_see_each_other(case):
    model = build(case)
    x, t, y = inputs(model)
    changed = x.clone()
    changed[:, :, 0] += 1
    difference = (model(changed, t, y) - model(x, t, y)).abs().amax((0, 1, 3, 4))
    assert (difference > 1e-6).all()
