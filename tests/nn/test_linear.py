"""Dense layers give the same numbers and gradients by every engine, and ordinary parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convflow.models.zoo import create_model
from convflow.nn import linear as engines
from convflow.nn.linear import Linear, fastest_engine, linear, use_engine
from convflow.types import InputError
from tests.cases import build, inputs
from tests.tolerance import assert_close_rms

ROWS, IN, OUT = 1024, 128, 256  # 2^25 multiply-adds: the fewest that a convolution takes


@pytest.fixture
def convolutions(monkeypatch):
    """Count the convolutions that are called."""
    calls, plain = [], torch.nn.functional.conv2d
    monkeypatch.setattr(
        engines.F, "conv2d", lambda *args: calls.append(args[0].shape) or plain(*args)
    )
    return calls


def tensors(shape, dtype=torch.float32, bias=True):
    generator = torch.Generator().manual_seed(0)
    sizes = [(*shape, IN), (OUT, IN)] + [(OUT,)] * bias
    return [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in sizes]


def answers(engine, inputs):
    out = linear(*inputs, *[None] * (3 - len(inputs)), engine)
    generator = torch.Generator().manual_seed(1)
    slope = torch.randn(out.shape, generator=generator).to(out.dtype)
    return [out, *torch.autograd.grad(out, inputs, slope)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(ROWS,), (4, 256), (2, 32, 16), (1, 1, ROWS)])
def test_engines_agree_with_their_gradients(convolutions, shape, bias):
    truth = answers(
        "blas", [t.detach().double().requires_grad_() for t in tensors(shape, bias=bias)]
    )
    for engine, count in (("blas", 0), ("convolution", 1)):
        for found, wanted in zip(answers(engine, tensors(shape, bias=bias)), truth, strict=True):
            assert found.shape == wanted.shape
            assert_close_rms(found, wanted.float())
        assert len(convolutions) == count


def test_features_that_are_not_contiguous_are_taken():
    x, weight, bias = tensors((2, 32, 16))
    turned = x.detach().transpose(1, 2)
    assert_close_rms(linear(turned, weight, bias, "convolution"), linear(turned, weight, bias))


@pytest.mark.parametrize(
    ("rows", "dtype", "autocast"),
    [(ROWS - 1, torch.float32, False), (ROWS, torch.float64, False), (ROWS, torch.bfloat16, False),
     (ROWS, torch.float32, True), (0, torch.float32, False)],
)  # fmt: skip
def test_other_products_stay_with_blas(convolutions, rows, dtype, autocast):
    inputs = tensors((rows,), dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found, wanted = linear(*inputs, "convolution"), nn.functional.linear(*inputs)
    assert found.equal(wanted)
    assert not convolutions


@pytest.fixture
def two_threads():
    """oneDNN convolves small batches on more than one thread only."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow  # its fast sibling compares the engines in eager mode
@pytest.mark.parametrize("batch", [1, 2])
def test_compiled_convolutions_copy_no_features(two_threads, batch):
    layers = nn.Sequential(Linear(IN, OUT), nn.SiLU(), Linear(OUT, IN))
    use_engine(layers, "convolution")
    compiled, x = torch.compile(layers, dynamic=False), torch.randn(batch, 32, 32, IN)
    with torch.no_grad():
        assert_close_rms(compiled(x), layers(x))
        with torch.profiler.profile() as profile:
            compiled(x)
    names = {event.key for event in profile.key_averages()}
    assert "aten::_convolution" in names
    assert "aten::copy_" not in names


def test_forward_derivatives_and_exports_work():
    x, weight, bias = tensors((ROWS,))
    _, slope = torch.func.jvp(lambda v: linear(v, weight, bias, "convolution"), (x,), (x,))
    assert_close_rms(slope, nn.functional.linear(x, weight))
    layer = Linear(IN, OUT)
    layer.engine = "convolution"
    program = torch.export.export(layer, (x.detach(),))
    names = {str(node.target) for node in program.graph.nodes}
    assert "aten.linear.default" in names


@pytest.mark.parametrize("vendor", ["AuthenticAMD", "GenuineIntel", ""])
@pytest.mark.parametrize("capability", ["AVX512", "AVX2"])
@pytest.mark.parametrize("mkl", [True, False])
def test_the_processor_and_the_build_alone_choose(monkeypatch, vendor, capability, mkl):
    monkeypatch.setattr(engines, "processor", lambda: f"vendor_id : {vendor}")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    fastest = mkl and vendor == "AuthenticAMD" and capability == "AVX512"
    engine, reason = fastest_engine.__wrapped__()
    assert engine == ("convolution" if fastest else "blas")
    assert reason


def test_a_layer_is_an_ordinary_linear_layer():
    layer, plain = Linear(3, 5), nn.Linear(3, 5)
    assert isinstance(layer, nn.Linear)
    assert layer.engine == fastest_engine()[0]
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3)
    assert layer(x).equal(plain(x))


@pytest.mark.parametrize("name", ["flowdcn-s/2", "dico-s", "fcdm-s", "dit-s/2", "sit-s/2"])
def test_every_dense_layer_of_every_network_goes_through_one_place(name):
    with torch.device("meta"):
        model = create_model(name)
    dense = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert dense
    assert {type(layer) for layer in dense} == {Linear}
    use_engine(model, "convolution")
    assert {layer.engine for layer in dense} == {"convolution"}
    use_engine(model, "blas")
    assert {layer.engine for layer in dense} == {"blas"}


def test_an_unknown_engine_is_refused(unchecked):
    with pytest.raises(InputError, match="convolution"):
        use_engine(nn.Identity(), "convolutoin")


@pytest.mark.parametrize("case", ["flowdcn", "dico", "fcdm", "dit"])
def test_networks_give_the_same_by_every_engine(monkeypatch, convolutions, case):
    monkeypatch.setattr(engines, "MIN_CONVOLUTION", 0)
    model, found = build(case), {}
    x, t, y = inputs(model)
    for engine in ("blas", "convolution"):
        use_engine(model, engine)
        model.zero_grad()
        out = model(x, t, y)
        out.square().mean().backward()
        slopes = torch.cat([p.grad.flatten() for p in model.parameters()])
        found[engine] = (out.detach(), slopes)
    assert convolutions
    for actual, expected in zip(found["convolution"], found["blas"], strict=True):
        assert_close_rms(actual, expected)
