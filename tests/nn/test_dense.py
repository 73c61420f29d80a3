"""Feed-forward layers: their formulas, and the hidden sizes of the published widths."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convflow.nn.dense import (
    GELUMLP,
    MLP,
    SwiGLU,
    create_activation,
    create_linear,
    create_mlp,
)
from convflow.types import InputError
from tests.tolerance import assert_close_rms


@pytest.mark.parametrize(
    ("width", "hidden"), [(48, 128), (384, 1024), (768, 2048), (1024, 2730), (1152, 3072)]
)
def test_swiglu_has_the_published_hidden_size(width, hidden):
    assert hidden == int(4 * width * 2 / 3)
    with torch.device("meta"):
        mlp = SwiGLU(width)
    assert {name: tuple(p.shape) for name, p in mlp.named_parameters()} == {
        "gate.weight": (hidden, width),
        "up.weight": (hidden, width),
        "out.weight": (width, hidden),
    }


def test_swiglu_is_its_formula():
    mlp, x = SwiGLU(6).double(), torch.randn(2, 3, 6, dtype=torch.float64)
    gate, up, out = (p.T for p in (mlp.gate.weight, mlp.up.weight, mlp.out.weight))
    expected = ((x @ gate) / (1 + torch.exp(-(x @ gate))) * (x @ up)) @ out
    assert_close_rms(mlp(x), expected)


def test_gelu_mlp_is_its_formula():
    mlp, x = GELUMLP(6).double(), torch.randn(2, 3, 6, dtype=torch.float64)
    for parameter in mlp.parameters():
        nn.init.normal_(parameter)
    hidden = x @ mlp[0].weight.T + mlp[0].bias
    inner = (2 / torch.pi) ** 0.5 * (hidden + 0.044715 * hidden**3)
    expected = (0.5 * hidden * (1 + torch.tanh(inner))) @ mlp[2].weight.T + mlp[2].bias
    assert hidden.shape[-1] == 24
    assert_close_rms(mlp(x), expected)


def test_mlp_is_two_linear_layers_around_its_activation():
    mlp, x = MLP(6, 10, nn.ReLU()).double(), torch.randn(2, 3, 6, dtype=torch.float64)
    for parameter in mlp.parameters():
        nn.init.normal_(parameter)
    hidden = (x @ mlp[0].weight.T + mlp[0].bias).clamp(min=0)
    assert hidden.shape[-1] == 10
    assert_close_rms(mlp(x), hidden @ mlp[2].weight.T + mlp[2].bias)
    assert GELUMLP(6, ratio=2.5)[0].out_features == 15


def test_a_new_linear_layer_has_xavier_weights_and_no_bias():
    linear = create_linear(100, 200)
    assert not linear.bias.any()
    assert linear.weight.abs().max() <= (6 / 300) ** 0.5
    assert linear.weight.std().item() == pytest.approx((2 / 300) ** 0.5, rel=0.02)


def test_activations_by_name(unchecked):
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    assert_close_rms(create_activation("gelu")(x), x * (1 + torch.erf(x / 2**0.5)) / 2)
    assert create_activation("relu")(x).equal(x.clamp(min=0))
    with pytest.raises(InputError, match=r"unknown activation 'gellu'; did you mean 'gelu'\?"):
        create_activation("gellu")


def test_layers_by_name(unchecked):
    assert isinstance(create_mlp("swiglu", 6), SwiGLU)
    assert isinstance(create_mlp("gelu", 6), GELUMLP)
    with pytest.raises(InputError, match=r"unknown mlp 'swigl'; did you mean 'swiglu'\?"):
        create_mlp("swigl", 6)
