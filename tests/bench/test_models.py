"""Networks are timed only where all their variants agree, beside the right rival."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convflow.bench import models, utilisation
from convflow.bench.agreement import TOLERANCE, distance
from convflow.bench.harness import BenchRow
from convflow.models.cost import measure_cost
from convflow.models.zoo import create_model
from convflow.nn.linear import Linear, fastest_engine
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
    return models.prepare_model(name, SHAPE, models.MODEL_MODES, CPU)


@pytest.mark.parametrize("name", TINY_SIZES)
@pytest.mark.parametrize("mode", models.MODEL_MODES)
def test_calls_are_those_of_the_network_its_floor_and_dit(name, mode):
    calls = models.set_up(find, CPU, name, SHAPE, mode)
    plain = ["dit-s/2 nn.Linear"] if fastest_engine()[0] != "blas" else []
    rival = [] if name == "dit-s/2" else ["dit-s/2", *plain]
    assert [*calls] == ["eager", "floor", "product limit", *rival]
    for call in calls.values():
        call()


def test_bfloat16_agrees_with_float32():
    setting = CPU._replace(dtype=torch.bfloat16)
    assert (
        models.prepare_model("dico-s", SHAPE, models.MODEL_MODES, setting).layout
        in models.MEMORY_FORMATS
    )


@pytest.mark.parametrize(("mode", "wrong"), [("forward", "forward"), ("training", "training")])
def test_a_layout_that_changes_the_numbers_is_found(mode, wrong, monkeypatch):
    honest = models._answers

    def broken(model, shape, mode, setting, layout=models.MEMORY_FORMATS[0], **more):
        out = honest(model, shape, mode, setting, layout, **more)
        return [1.001 * part for part in out] if layout == torch.channels_last else out

    monkeypatch.setattr(models, "_answers", broken)
    text = f"dico-s and itself in torch.channels_last, {wrong}: expected the same numbers"
    with pytest.raises(Disagreement, match=text):
        models.prepare_model("dico-s", SHAPE, [mode], CPU)


def test_a_compiled_twin_that_differs_is_found(monkeypatch):
    def compile_wrongly(model, dynamic):
        twin = create_model(*TINY_SIZES["dico-s"][:1], **TINY_SIZES["dico-s"][1])
        return models.perturb(twin, 0.03)

    monkeypatch.setattr(torch, "compile", compile_wrongly)
    setting = CPU._replace(compiles="whole")
    with pytest.raises(Disagreement, match="dico-s and itself compiled, forward"):
        models.prepare_model("dico-s", SHAPE, ["forward"], setting)


def test_a_compiler_that_fails_leaves_the_eager_numbers(monkeypatch):
    def fail(model, dynamic):
        def call(*_):
            raise RuntimeError("no C++ compiler here")

        return call

    monkeypatch.setattr(torch, "compile", fail)
    found = models.prepare_model("dico-s", SHAPE, ["forward"], CPU._replace(compiles="whole"))
    assert found.compiled == "RuntimeError: no C++ compiler here"
    calls = models.set_up(lambda _: found, CPU, "dit-s/2", SHAPE, "forward")
    assert [*calls] == ["eager", "floor", "product limit"]


def test_compiled_twins_and_float32_rivals_have_their_own_lines(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: model)
    setting = models.Setting(CPU.device, torch.bfloat16, "whole", float32_rival=True)

    def find(name):
        return models.prepare_model(name, SHAPE, ["forward"], setting)

    calls = models.set_up(find, setting, "dico-s", SHAPE, "forward")
    theirs = ["dit-s/2", "dit-s/2 compiled", "dit-s/2 float32", "dit-s/2 float32 product limit"]
    assert [*calls] == ["eager", "compiled", "floor", "product limit", *theirs]


@pytest.mark.parametrize("engine", ["blas", "convolution"])
def test_a_plain_rival_stands_beside_where_its_layers_multiply_otherwise(engine, monkeypatch):
    monkeypatch.setattr(models, "fastest_engine", lambda: (engine, "said here"))
    found = models.prepare_model("dit-s/2", SHAPE, ["forward"], CPU)
    calls = models.set_up(lambda _: found, CPU, "dico-s", SHAPE, "forward")
    assert ("dit-s/2 nn.Linear" in calls) == (engine == "convolution")
    twin = models._plain(found.model)
    assert {m.engine for m in twin.modules() if isinstance(m, Linear)} == {"blas"}
    assert next(twin.parameters()) is next(found.model.parameters())


def test_a_twin_of_compiled_blocks_shares_its_weights_and_leaves_the_network_eager(monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **_: compiled.append(module))
    found = models.prepare_model("dit-s/2", SHAPE, ["forward"], CPU._replace(compiles="blocks"))
    assert [type(m).__name__ for m in compiled] == ["DiTBlock", "DiTBlock", "PatchHead"]
    pairs = zip(found.model.parameters(), found.compiled.parameters(), strict=True)
    assert all(ours is theirs for ours, theirs in pairs)
    assert not {*map(id, compiled)} & {*map(id, found.model.modules())}


def test_noise_on_more_weights_has_the_same_norm(monkeypatch):
    """A quarter of a network's weights are many: half the deviation."""
    plain = models.create_seeded("dico-s")
    count = sum(p.numel() for p in plain.parameters())
    for many, scale in ((count, 0.02), (count / 4, 0.01)):
        monkeypatch.setattr(models, "MANY", many)
        noisy = models.create_noisy("dico-s")
        pairs = zip(noisy.parameters(), plain.parameters(), strict=True)
        noise = torch.cat([(one - other).flatten() for one, other in pairs])
        assert noise.std().item() == pytest.approx(scale, rel=0.02)


@pytest.mark.parametrize("mode", models.MODEL_MODES)
def test_the_truth_is_the_same_piece_by_piece(mode):
    model = models.perturb(models.create_seeded("dico-s"))
    whole, pieces = (
        models._answers(model, (5, 32, 32), mode, CPU, piece=piece) for piece in (None, 2)
    )
    assert distance(pieces, whole) <= TOLERANCE[torch.float32]


def test_operations_are_those_of_the_line():
    """TINY_DIT at 4 x 8 latents, 8 patches of 16 numbers, counted by hand, for 2 images."""
    embed, time = 8 * 16 * 16, 256 * 16 + 16 * 16
    block = 16 * 96 + 8 * 16 * 48 + 2 * 8 * 8 * 16 + 8 * 16 * 16 + 2 * 8 * 16 * 64
    macs = embed + time + 2 * block + 16 * 32 + 8 * 16 * 16
    ours = measure_cost(lambda: models.create_model("dico-s"), (32, 64), factor=8).gmacs * 1e9
    times = {"eager": 4.0, "product limit": 1.0, "dit-s/2 compiled": 2.0, "dit-s/2 float32": 8.0,
             "dit-s/2 float32 product limit": 2.0}  # fmt: skip
    for mode, passes in (("forward", 1), ("training", 3)):
        rows = [
            BenchRow("dico-s", "2x32x64", mode, line, ms, ms, ms, ms / 4, 0.0)
            for line, ms in times.items()
        ]
        eager, limit, compiled, plain, plain_limit = models.rate_rows("dico-s", rows, CPU.device)
        rate = 2 * utilisation.SIDES[True] ** 3 / 1e-3
        needs, theirs = 4 * ours * passes, 4 * macs * passes
        assert (eager.tflop, compiled.tflop) == pytest.approx((needs / 1e12, theirs / 1e12))
        assert limit.median_ms == pytest.approx(1e3 * needs / rate)
        assert eager.utilisation == pytest.approx(needs / 4e-3 / rate)
        assert compiled.utilisation == pytest.approx(theirs / 2e-3 / rate)
        assert plain.utilisation == pytest.approx(theirs / 8e-3 / (rate / 2))
        assert plain_limit.median_ms == pytest.approx(1e3 * theirs / (rate / 2))


@pytest.mark.parametrize(
    ("name", "rival"),
    [("flowdcn-xl/2", "dit-xl/2"), ("dico-b", "dit-b/2"), ("sit-s/4", "dit-s/2"),
     ("dit-s/2", None), ("dico-h", None), ("nosuch", None)],
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


@pytest.mark.slow
def test_work_that_cannot_fit_names_a_batch_that_does(monkeypatch):
    monkeypatch.setattr(models, "free_memory", lambda device: 2**27)
    message = r"batches of 2000 at 256x256 .*; --batch-size \d+ fits"
    with pytest.raises(InputError, match=message):
        models.check_work(["dico-s"], (2000, 256, 256), "forward", CPU)
    models.check_work(["dico-s"], (2, 256, 256), "forward", CPU)
