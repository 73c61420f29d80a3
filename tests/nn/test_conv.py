"""Convolutional layers against a few lines of arithmetic, on maps with odd sides."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convflow.nn.conv import (
    ChannelAttention,
    Conv,
    ConvHead,
    ConvMix,
    ConvStem,
    ResponseNorm,
    SqueezeExcitation,
    create_attention,
    use_depthwise,
)
from convflow.types import InputError
from tests.tolerance import assert_close_rms

SIZES = [(1, 1), (3, 5), (6, 1), (4, 7)]


def drawn(layer: nn.Module) -> nn.Module:
    """The layer in float64, every parameter at random."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer.double()


def maps(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def gelu(x: torch.Tensor) -> torch.Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def slide(x: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """Sum over rows and columns of a kernel: `taps` (k, k, C, D) on `x` (B, H, W, C)."""
    side, (_, height, width, _) = len(taps), x.shape
    padded = torch.zeros(len(x), height + side - 1, width + side - 1, x.shape[3], dtype=x.dtype)
    padded[:, side // 2 : side // 2 + height, side // 2 : side // 2 + width] = x
    return sum(
        padded[:, i : i + height, j : j + width] @ taps[i, j]
        for i in range(side)
        for j in range(side)
    )


def depthwise(layer: Conv, x: torch.Tensor) -> torch.Tensor:
    return slide(x, torch.diag_embed(layer.weight[:, 0].permute(1, 2, 0))) + layer.bias


def weigh(x: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    return x / (1 + torch.exp(-score))[:, None, None]


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_convolution_is_a_sum_over_its_taps(kernel):
    layer, each = drawn(Conv(4, 6, kernel)), drawn(Conv(4, 4, kernel, groups=4))
    for size in SIZES:
        x = maps(2, *size, 4)
        assert_close_rms(layer(x), slide(x, layer.weight.permute(2, 3, 1, 0)) + layer.bias)
        assert_close_rms(each(x), depthwise(each, x))
    assert Conv(4, 6, bias=False).bias is None


@pytest.mark.parametrize("kernel", [0, 2, 4])
def test_a_kernel_without_a_middle_is_refused(kernel):
    with pytest.raises(InputError, match=f"odd kernel_size.*got {kernel}; try {kernel + 1}"):
        Conv(4, 4, kernel)


def test_features_stay_in_channels_last_memory():
    x = torch.randn(2, 3, 4, 8)
    for layer in (Conv(8, 8), Conv(8, 4, 7), Conv(8, 8, groups=8), ConvMix(8)):
        assert layer(x).is_contiguous(), layer
    assert ConvStem(3, 8)(torch.randn(2, 3, 4, 6)).is_contiguous()


def test_the_stem_takes_a_picture():
    layer, x = drawn(ConvStem(3, 5)), maps(2, 3, 4, 7)
    expected = slide(x.permute(0, 2, 3, 1), layer.weight.permute(2, 3, 1, 0)) + layer.bias
    assert_close_rms(layer(x), expected)


@pytest.mark.parametrize("size", SIZES)
def test_channel_attention_weighs_each_channel_of_each_sample(size):
    layer, x = drawn(ChannelAttention(6)), maps(2, *size, 6)
    mean = x.sum((1, 2)) / (size[0] * size[1])
    assert_close_rms(layer(x), weigh(x, mean @ layer.score.weight.T + layer.score.bias))


@pytest.mark.parametrize(("width", "hidden"), [(8, 8), (128, 8), (256, 16), (512, 32)])
def test_squeeze_and_excitation_has_a_bottleneck(width, hidden):
    layer, x = drawn(SqueezeExcitation(width)), maps(2, 3, 2, width)
    into, _, out = layer.score
    assert into.weight.shape == (hidden, width)
    squeezed = (x.mean((1, 2)) @ into.weight.T + into.bias).clamp(min=0)
    assert_close_rms(layer(x), weigh(x, squeezed @ out.weight.T + out.bias))


@pytest.mark.parametrize(
    ("kernel", "attention", "activation"),
    [(3, "cca", "gelu"), (5, "se", "relu"), (7, "none", "gelu"), (7, "cca", "relu")],
)
def test_the_module_is_its_five_steps(kernel, attention, activation):
    layer = drawn(ConvMix(6, kernel, attention, activation))
    for size in SIZES:
        x = maps(2, *size, 6)
        hidden = depthwise(layer.depthwise, x @ layer.expand.weight.T + layer.expand.bias)
        hidden = gelu(hidden) if activation == "gelu" else hidden.clamp(min=0)
        expected = layer.attention(hidden) @ layer.out.weight.T + layer.out.bias
        assert_close_rms(layer(x), expected)


def test_a_new_module_starts_with_xavier_weights_and_no_bias():
    for name, parameter in ConvMix(64).named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
            continue
        taps = 9 if name == "depthwise.weight" else 1
        fans = 9 + 64 * 9 if taps == 9 else 128
        assert parameter.abs().max() <= (6 / fans) ** 0.5
        assert parameter.std().item() == pytest.approx((2 / fans) ** 0.5, rel=0.1)


@pytest.mark.parametrize("size", SIZES)
def test_response_norm_is_its_formula(size):
    layer, x = drawn(ResponseNorm(6)), maps(2, *size, 6)
    g = (x**2).sum((1, 2)).sqrt()
    n = g / (g.mean(-1, keepdim=True) + 1e-6)
    assert_close_rms(layer(x), layer.gamma * x * n[:, None, None] + layer.beta + x)


def test_response_norm_by_hand():
    """Channels of strength 3 and 4 have the mean 3.5."""
    layer = ResponseNorm(2)
    x = torch.tensor([[[[3.0, 0.0], [0.0, 4.0]]]])
    assert layer(x).equal(x)
    layer.gamma.data.fill_(7.0)
    layer.beta.data.copy_(torch.tensor([0.5, -1.0]))
    expected = torch.tensor([[[[3 * 7 + 0.5, -1.0], [0.5, 4 * 9 - 1.0]]]])
    torch.testing.assert_close(layer(x), expected)


def test_response_norm_bears_dark_and_half_precision_maps():
    layer = ResponseNorm(4)
    nn.init.ones_(layer.gamma)
    x = torch.zeros(1, 2, 2, 4, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.isfinite().all()
    bright = torch.full((1, 64, 64, 4), 2000.0, dtype=torch.float16)
    assert layer(bright).dtype == torch.float16
    assert_close_rms(layer(bright), 2 * bright)


@pytest.mark.parametrize("size", SIZES)
def test_the_head_norms_modulates_and_convolves(size):
    head, x, c = drawn(ConvHead(6, 4)), maps(2, *size, 6), maps(2, 6)
    linear = head.modulation[1]
    shift, scale = ((c / (1 + torch.exp(-c))) @ linear.weight.T + linear.bias).split(6, -1)
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    modulated = normed * (1 + scale[:, None, None]) + shift[:, None, None]
    expected = slide(modulated, head.out.weight.permute(2, 3, 1, 0)) + head.out.bias
    out = head(x, c)
    assert_close_rms(out, expected.permute(0, 3, 1, 2))
    assert out.is_contiguous()
    assert not ConvHead(6, 4)(x.float(), c.float()).any()


def test_layers_by_name(unchecked):
    assert isinstance(create_attention("none", 6), nn.Identity)
    assert type(create_attention("cca", 6)) is ChannelAttention
    assert type(create_attention("se", 6)) is SqueezeExcitation
    with pytest.raises(InputError, match=r"unknown attention 'cc'; did you mean 'cca'\?"):
        ConvMix(6, attention="cc")
    with pytest.raises(InputError, match=r"unknown activation 'gel'; did you mean 'gelu'\?"):
        ConvMix(6, activation="gel")
    for kernel in (1, 4, 9):
        with pytest.raises(InputError, match=f"kernel_size of 3, 5 or 7, got {kernel}"):
            ConvMix(6, kernel)


def gradients(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The output, and the gradients of the input and of every parameter."""
    leaves = [x.requires_grad_(), *layer.parameters()]
    out = layer(x)
    return [out, *torch.autograd.grad(out.float().square().sum(), leaves)]


@pytest.mark.parametrize("layer", [Conv(6, 6, 5, groups=6, bias=False), ConvMix(6, 7)], ids=type)
def test_backends_of_depthwise_convolutions_agree(layer):
    x, keys = torch.randn(2, 4, 7, 6), list(layer.state_dict())
    expected = gradients(layer, x)
    use_depthwise(layer, "triton")
    assert list(layer.state_dict()) == keys
    for one, other in zip(gradients(layer, x), expected, strict=True):
        assert_close_rms(one, other)


def test_large_depthwise_kernels_learn_as_those_of_torch():
    layer, x = Conv(6, 6, 7, groups=6), torch.randn(2, 4, 7, 6)
    found = gradients(layer, x)
    assert "depthwise_conv" in type(found[0].grad_fn).__name__
    plain = nn.Conv2d.forward
    layer.forward = lambda x: plain(layer, x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    for one, truth in zip(found, gradients(layer, x), strict=True):
        assert_close_rms(one, truth)


def test_backends_have_the_same_dtype_under_autocast():
    layer = Conv(6, 6, groups=6)
    x = torch.randn(2, 4, 7, 6)
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer(x)
        use_depthwise(layer, "triton")
        actual = layer(x)
        assert layer(x.double()).dtype == torch.float64
    assert actual.dtype == expected.dtype == torch.bfloat16
    assert_close_rms(actual, expected)


def test_depthwise_backends_by_name(unchecked):
    with pytest.raises(InputError, match=r"unknown backend 'tritn'; did you mean 'triton'\?"):
        use_depthwise(ConvMix(6), "tritn")
    with pytest.raises(InputError, match="with depthwise convolutions, got ConvHead without"):
        use_depthwise(ConvHead(6, 4), "triton")
