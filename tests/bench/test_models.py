"""Networks are timed only where all their variants agree, beside the right rival."""

from __future__ import annotations

import pytest
import torch

from convflow.bench import models
from convflow.bench.harness import Row
from convflow.models.zoo import create_model
from convflow.types import Disagreement, InputError
from tests.cases import TINY, TINY_DICO, TINY_DIT

CPU = models.Setting(torch.device("cpu"))
TINY_SIZES = {
    "flowdcn-s/2": ("flowdcn", TINY | {"in_channels": 4, "num_classes": 1000}),
    "dico-s": ("dico", TINY_DICO | {"in_channels": 4, "num_classes": 1000}),
    "dit-s/2": ("dit", TINY_DIT | {"in_channels": 4, "num_classes": 1000}),
}
SHAPE = (2, 32, 64)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    """Small networks under the names of published ones."""

    def create(name):
        family, settings = TINY_SIZES[name]
        return create_model(family, **settings)

    monkeypatch.setattr(models, "create_model", create)


def find(name):
    return models.prepare(name, SHAPE, models.MODES, CPU)


@pytest.mark.parametrize("name", TINY_SIZES)
@pytest.mark.parametrize("mode", models.MODES)
def test_calls_are_those_of_the_network_its_floor_and_dit(name, mode):
    calls = models.set_up(find, CPU, name, SHAPE, mode)
    rival = [] if name == "dit-s/2" else ["dit-s/2"]
    assert [*calls] == ["eager", "floor", *rival]
    for call in calls.values():
        call()


def test_bfloat16_agrees_with_float32():
    setting = CPU._replace(dtype=torch.bfloat16)
    assert models.prepare("dico-s", SHAPE, models.MODES, setting).layout in models.LAYOUTS


@pytest.mark.parametrize(("mode", "wrong"), [("forward", "forward"), ("training", "training")])
def test_a_layout_that_changes_the_numbers_is_found(mode, wrong, monkeypatch):
    honest = models._answers

    def broken(model, shape, mode, setting, layout=models.LAYOUTS[0]):
        out = honest(model, shape, mode, setting, layout)
        return [1.001 * part for part in out] if layout == torch.channels_last else out

    monkeypatch.setattr(models, "_answers", broken)
    text = f"dico-s and itself in torch.channels_last, {wrong}: expected the same numbers"
    with pytest.raises(Disagreement, match=text):
        models.prepare("dico-s", SHAPE, [mode], CPU)


def test_a_compiled_twin_that_differs_is_found(monkeypatch):
    def compile_wrongly(model, dynamic):
        twin = create_model(*TINY_SIZES["dico-s"][:1], **TINY_SIZES["dico-s"][1])
        return models.perturb(twin, 0.03)

    monkeypatch.setattr(torch, "compile", compile_wrongly)
    setting = CPU._replace(compiles=True)
    with pytest.raises(Disagreement, match="dico-s and itself compiled, forward"):
        models.prepare("dico-s", SHAPE, ["forward"], setting)


def test_a_compiler_that_fails_leaves_the_eager_numbers(monkeypatch):
    def fail(model, dynamic):
        def call(*_):
            raise RuntimeError("no C++ compiler here")

        return call

    monkeypatch.setattr(torch, "compile", fail)
    found = models.prepare("dico-s", SHAPE, ["forward"], CPU._replace(compiles=True))
    assert found.compiled == "RuntimeError: no C++ compiler here"
    assert [*models.set_up(lambda _: found, CPU, "dit-s/2", SHAPE, "forward")] == ["eager", "floor"]


def test_compiled_twins_have_their_own_lines(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: model)
    setting = CPU._replace(compiles=True)

    def find(name):
        return models.prepare(name, SHAPE, ["forward"], setting)

    calls = models.set_up(find, setting, "dico-s", SHAPE, "forward")
    assert [*calls] == ["eager", "compiled", "floor", "dit-s/2", "dit-s/2 compiled"]


@pytest.mark.parametrize(
    ("name", "rival"),
    [("flowdcn-xl/2", "dit-xl/2"), ("dico-b", "dit-b/2"), ("sit-s/4", "dit-s/2"),
     ("dit-s/2", None), ("dico-h", None)],
)  # fmt: skip
def test_the_rival_is_dit_of_that_size(name, rival):
    assert models.rival_of(name) == rival


def test_networks_are_the_same_every_time_and_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    one, other = (models.create_seeded("dico-s").state_dict() for _ in range(2))
    assert all(one[name].equal(other[name]) for name in one)
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize(
    ("names", "shape", "message"),
    [
        (["dico-s", "dico-z"], SHAPE, "unknown model 'dico-z'; did you mean"),
        (["dico-s"], (2, 32, 40), "multiples of 32, got 32x40; the nearest that works is 32x32"),
        (["dico-s"], (2, 0, 32), "multiples of 32, got 0x32"),
    ],
)
@pytest.mark.parametrize("free", [2**40, None])
def test_impossible_work_is_refused_at_once(names, shape, message, free, monkeypatch):
    monkeypatch.setattr(models, "free_memory", lambda device: free)
    with pytest.raises(InputError, match=message):
        models.check_work(names, shape, "forward", CPU)


def test_work_that_cannot_fit_names_a_batch_that_does(monkeypatch):
    monkeypatch.setattr(models, "free_memory", lambda device: 2**27)
    message = r"batches of 2000 at 256x256 .*; --batch-size \d+ fits"
    with pytest.raises(InputError, match=message):
        models.check_work(["dico-s"], (2000, 256, 256), "forward", CPU)
    models.check_work(["dico-s"], (2, 256, 256), "forward", CPU)


def test_pictures_a_second_are_of_the_batch():
    row = Row("dico-s", "8x256x256", "forward", "eager", 500.0, 400.0, 600.0, 1.0, 3.0)
    assert models.cells(row)["images_per_s"] == "16"
