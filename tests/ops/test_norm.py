"""The kernel of norm and modulation against the plain formula, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from convflow.bench.agreement import TOLERANCE
from convflow.nn.norm import RMSNorm, create_norm, modulate, modulated_norm
from convflow.ops import norm as ours
from tests.tolerance import assert_close_rms


def draw(*shape):
    """A norm that is not new, features, shift and scale."""
    norm = RMSNorm(shape[-1])
    nn.init.normal_(norm.weight)
    parts = torch.randn(shape), torch.randn(shape[0], shape[-1]), torch.randn(shape[0], shape[-1])
    return norm, *(part.requires_grad_() for part in parts)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("shape", [(2, 37, 16), (3, 5, 9, 48), (1, 1, 32)])
def test_twin_of_the_formula(shape, half, monkeypatch):
    """Gradients included, with the same bits on any number of threads."""
    monkeypatch.setattr(ours, "MIN_NUMBERS", 1)
    norm, *parts = draw(*shape)
    leaves, before = [*parts, *norm.parameters()], torch.get_num_threads()
    slope = torch.randn(shape).transpose(0, -1).contiguous().transpose(0, -1)  # with gaps
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                out = modulated_norm(norm, parts[0] + 3, *parts[1:])
            given = slope.to(out.dtype)
            found.append((out, *torch.autograd.grad(out, leaves, given)))
    finally:
        torch.set_num_threads(before)
    truth = modulate(norm(parts[0] + 3), *parts[1:])
    assert "Normed" in type(out.grad_fn).__name__
    assert out.dtype == (torch.bfloat16 if half else torch.float32)
    assert all(map(torch.equal, *found))
    if half:
        assert_close_rms(out.float(), truth, limit=TOLERANCE[torch.bfloat16])
    else:
        assert_close_rms(out, truth)
    truths = torch.autograd.grad(truth, leaves, given.float())
    for one, other in zip(found[0][1:], truths, strict=True):
        assert_close_rms(one, other, limit=1e-5)


def test_others_take_the_formula(monkeypatch):
    monkeypatch.setattr(ours, "MIN_NUMBERS", 1)
    norm, x, shift, scale = draw(2, 5, 32)
    layer = create_norm("layer", 32)
    assert_close_rms(modulated_norm(layer, x, shift, scale), modulate(layer(x), shift, scale))
    assert ours.fits(x)
    assert not any(map(ours.fits, (x.double(), x.bfloat16(), x[..., :8], x[0], x.to("meta"))))
    monkeypatch.setattr(ours, "find_numba", lambda: (None, "gone"))
    assert not ours.fits(x)
    norm.register_forward_hook(lambda *_: torch.zeros_like(x))
    assert torch.equal(modulated_norm(norm, x, shift, scale)[0], shift[0].expand(5, 32))


def test_transforms_and_forward_derivatives_take_the_formula(monkeypatch):
    monkeypatch.setattr(ours, "MIN_NUMBERS", 1)
    norm, x, shift, scale = draw(2, 5, 32)

    def run(x):
        return modulated_norm(norm, x, shift, scale)

    _, tangent = torch.func.jvp(run, (x.detach(),), (torch.ones_like(x),))
    step = 1e-3
    assert_close_rms(tangent, (run(x + step) - run(x - step)) / (2 * step), limit=1e-2)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(shift.detach(), torch.ones_like(shift))
        moved = forward_ad.unpack_dual(modulated_norm(norm, x.detach(), dual, scale)).tangent
    assert (moved == 1).all()
