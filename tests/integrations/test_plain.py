"""Plain twins compute what the layers here do, on a CPU and without kernels."""

import pytest
import torch

from convflow.integrations import plain
from convflow.nn import attention, norm
from convflow.nn.conv import Conv
from convflow.nn.deform import GroupwiseMSDCN

PAIRS = [
    (Conv, plain.PlainConv, (8, 8, 5)),
    (GroupwiseMSDCN, plain.PlainGroupwiseMSDCN, (8, 2)),
]


def draw(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize(
    ("ours", "twin", "arguments"), PAIRS, ids=lambda p: getattr(p, "__name__", "")
)
def test_a_plain_layer_is_the_same_function(ours, twin, arguments):
    layer, other = ours(*arguments).double(), twin(*arguments).double()
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(draw(*weight.shape) * 0.3)
    other.load_state_dict(layer.state_dict())
    x = draw(2, 6, 5, 8)
    torch.testing.assert_close(other(x), layer(x), rtol=1e-6, atol=1e-6)


def test_the_plain_attention_is_the_same_function():
    q, k, v = (draw(2, 3, 10, 4) + number for number in range(3))
    torch.testing.assert_close(plain.gather(q, k, v), attention.gather(q, k, v))


def test_the_plain_modulated_norm_is_the_same_function():
    layer = norm.RMSNorm(16)
    x, shift, scale = draw(2, 64, 64, 16).float(), draw(2, 16).float(), draw(2, 16).float()
    ours = norm.modulated_norm(layer, x, shift, scale)
    torch.testing.assert_close(plain.modulated_norm(layer, x, shift, scale), ours)
