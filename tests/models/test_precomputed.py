"""A network that looks its modulation vectors up is the network itself, where it knows them."""

import pytest
import torch

from convflow.models import precomputed
from convflow.models.flowdcn import FlowDCN
from convflow.models.precomputed import precompute
from convflow.nn.norm import Modulation
from convflow.types import InputError
from tests.cases import MODELS, TINY, build, build_pyramid, inputs
from tests.tolerance import assert_close_rms


@pytest.fixture(autouse=True)
def _any_memory(monkeypatch):
    """Tables of tiny networks are large beside their weights."""
    monkeypatch.setattr(precomputed, "LARGEST_SHARE", 1e9)


def ask(model):
    """A network, pictures, and times and labels that repeat, with all that there are of both."""
    x, _, _ = inputs(model, 4)
    t, y = torch.tensor([0.25, 0.0, 0.75, 0.25]), torch.tensor([0, model.num_classes] * 2)
    return (
        x,
        t,
        y,
        (torch.tensor([0.0, 0.25, 0.75]), torch.tensor([0, 1, model.num_classes]).unique()),
    )


@pytest.mark.parametrize("case", MODELS)
@torch.no_grad()
def test_the_twin_predicts_the_same_without_a_modulation(case, monkeypatch):
    model = build(case)
    x, t, y, known = ask(model)
    known = known[0], known[1].clamp_max(model.num_classes).unique()
    truth = model(x, t, y)
    twin = precompute(model, *known)
    assert twin is not model
    monkeypatch.setattr(Modulation, "forward", None)
    assert_close_rms(twin(x, t, y), truth)
    assert_close_rms(twin(x, t * (1 + 1e-7), y), truth)
    with pytest.raises(TypeError):
        model(x, t, y)


@torch.no_grad()
def test_another_time_or_label_is_nan_for_that_sample_alone():
    model = build("dico")
    x, t, y, known = ask(model)
    twin = precompute(model, *known)
    t[1], y[2] = 0.26, 3
    assert twin(x, t, y).isfinite().flatten(1).all(1).tolist() == [True, False, False, True]


@torch.no_grad()
def test_everything_else_is_shared():
    model = build("flowdcn")
    x, t, y, known = ask(model)
    twin, heard = precompute(model, *known), []
    model.register_forward_hook(lambda *_: heard.append("network"))
    model.blocks[0].mix.register_forward_hook(lambda *_: heard.append("layer"))
    twin(x, t, y)
    assert heard == ["layer", "network"]
    ours = {id(weight) for weight in model.parameters()}
    assert {id(weight) for weight in twin.parameters()} < ours
    with pytest.raises(InputError):
        twin(x[:, :1], t, y)


class Wrapped(torch.nn.Module):
    """An adapter of the user's own around a part."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *inputs):
        return self.inner(*inputs)


def wrap_modulation(model):
    model.blocks[0].modulation = Wrapped(model.blocks[0].modulation)


def wrap_compiled(model):
    model.blocks[0] = torch.compile(model.blocks[0], backend="eager")


def patch_trunk(model):
    trunk = model.trunk
    model.trunk = lambda features, c, *more: trunk(features + 0 * c.sum(), c, *more)


CHANGES = {
    "compiled": lambda model: model.compile(backend="eager"),
    "compiled block": lambda model: model.blocks[0].compile(backend="eager"),
    "wrapped by the compiler": wrap_compiled,
    "wrapped modulation": wrap_modulation,
    "parametrized": lambda model: torch.nn.utils.parametrizations.weight_norm(
        model.blocks[0].mlp.up
    ),
    "patched": patch_trunk,
    "hooked": lambda model: model.blocks[0].register_forward_pre_hook(lambda *_: None),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_a_network_that_was_changed_within_stays_as_it_is(change):
    model = build("flowdcn")
    x, t, y, known = ask(model)
    CHANGES[change](model)
    before = model(x, t, y)
    assert precompute(model, *known) is model
    assert_close_rms(model(x, t, y), before)


def test_networks_of_other_classes_stay_as_they_are():
    class Other(FlowDCN):
        pass

    for model in (Other(**TINY), build_pyramid()):
        assert precompute(model, torch.zeros(1), torch.zeros(1, dtype=torch.int64)) is model


def test_the_vectors_hold_no_graph():
    model = build("flowdcn")
    twin = precompute(model, *ask(model)[3])
    assert not any(buffer.requires_grad for buffer in twin.buffers())


def test_vectors_that_take_much_memory_are_not_computed(monkeypatch):
    monkeypatch.setattr(precomputed, "LARGEST_SHARE", 0.25)
    model = build("flowdcn")
    numbers = (2 * 6 + 2) * 16
    most = sum(weight.numel() for weight in model.parameters()) // 4 // numbers
    label = torch.zeros(1, dtype=torch.int64)
    assert precompute(model, torch.rand(most), label) is not model
    assert precompute(model, torch.rand(most + 1), label) is model
