"""A compiled training computes what an eager one does, and goes on exactly."""

import itertools
from functools import partial

import pytest
import torch

from convflow.data.loader import batches
from convflow.training import checkpoint, trainer
from convflow.training.compiling import MOST_GRAPHS, BatchShapes, compile_network
from convflow.types import Diverged, InputError
from tests.tolerance import assert_close_rms
from tests.two_processes import run_two

HOW = ["blocks", "whole"]
AGAIN = "--memory.recompute blocks"
ALIGN = "--objectives.align.kind tests.extending.align:Align --objectives.align.width 4"


@pytest.fixture
def traced(monkeypatch):
    """Graphs are traced and differentiated, and then run as they are: no C++ is compiled."""
    torch.compiler.reset()
    eager = partial(compile_network, backend="aot_eager")
    monkeypatch.setattr(trainer, "compile_network", eager)


def steps(found, count):
    config = found.config
    stream = batches(found.images, found.order, found.images_seen, config.batch_size)
    return [found.train_step(*batch) for batch in itertools.islice(stream, count)]


def states(found):
    return found.model.state_dict(), found.ema.model.state_dict()


def check_equal_to_eager(words, how, tiny, trainer_of, tmp_path):
    eager = trainer_of(tiny(words), tmp_path / "eager")
    compiled = trainer_of(tiny(f"{words} --compile {how}"), tmp_path / "compiled")
    first, second = steps(eager, 4), steps(compiled, 4)
    for one, other in zip(first, second, strict=True):
        assert other == pytest.approx(one, rel=1e-3)
    for truth, found in zip(states(eager), states(compiled), strict=True):
        assert [*truth] == [*found]
        for name, tensor in truth.items():
            assert_close_rms(found[name], tensor, torch.float32)


WAYS = [
    (f"{ALIGN} {AGAIN}", "blocks"),
    ("", "blocks"),
    (ALIGN, "blocks"),
    (AGAIN, "blocks"),
    ("", "whole"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "how"), WAYS)
def test_compiled_is_eager(words, how, traced, tiny, trainer_of, tmp_path):
    check_equal_to_eager(words, how, tiny, trainer_of, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
def test_compiled_by_inductor_is_eager(how, tiny, trainer_of, tmp_path):
    """The times are not scaled, for rounding a thousand of them turns a wave by 1e-4."""
    torch.compiler.reset()
    check_equal_to_eager("--model.time-scale 1", how, tiny, trainer_of, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
def test_going_on_is_exact(how, traced, tiny, trainer_of, tmp_path):
    config = tiny(f"--compile {how}")
    straight = trainer_of(config, tmp_path / "straight")
    steps(straight, 3)
    resumed = trainer_of(config, tmp_path / "resumed")
    resumed.load(straight.save())
    assert steps(straight, 3) == steps(resumed, 3)
    for truth, found in zip(states(straight), states(resumed), strict=True):
        assert all(torch.equal(tensor, found[name]) for name, tensor in truth.items())


@pytest.mark.slow
def test_previews_and_checkpoints_are_those_of_an_eager_run(traced, tiny, trainer_of, tmp_path):
    words, runs = "--images 24", [tmp_path / "a", tmp_path / "b"]
    for run, more in zip(runs, ["", "--compile blocks"], strict=True):
        assert trainer_of(tiny(f"{words} {more}"), run).run()
    names = [sorted(p.name for p in (run / "samples").iterdir()) for run in runs]
    assert names[0] == names[1]
    first, second = (checkpoint.folder_of(run, 3) for run in runs)
    files = [sorted(str(p.relative_to(f)) for p in f.rglob("*")) for f in (first, second)]
    assert files[0] == files[1]


def test_off_compiles_nothing(tiny, trainer_of, monkeypatch):
    monkeypatch.setattr(torch, "compile", None)
    found = trainer_of(tiny())
    steps(found, 1)
    assert not found.shapes.seen
    assert all(m._compiled_call_impl is None for m in found.losses.modules())


@pytest.mark.slow
def test_the_module_that_broke_is_named_within_a_compiled_block(traced, tiny, trainer_of):
    found = trainer_of(tiny("--compile blocks"))
    steps(found, 1)
    with torch.no_grad():
        found.model.blocks[0].mlp.out.weight[0, 0] = torch.nan
    with pytest.raises(Diverged, match=r"first in blocks\.0\.mlp\.out \(Linear\)"):
        steps(found, 1)


def test_too_many_shapes_are_said_once(caplog):
    shapes = BatchShapes()
    for batch in range(2 * MOST_GRAPHS):
        shapes.add(torch.Size((batch + 1, 3, 8, 8)))
    assert caplog.text.count(f"more than {MOST_GRAPHS} shapes") == 1


@pytest.mark.slow
def test_buckets_beyond_the_limit_run_eagerly(tiny, trainer_of, monkeypatch, caplog):
    """Two graphs of a kind of block, and four sizes: the run ends as an eager one does."""
    torch.compiler.reset()
    few = partial(compile_network, backend="aot_eager", recompile_limit=2)
    monkeypatch.setattr(trainer, "compile_network", few)
    words = "--data.sizes 8x8,8x16,16x8,16x16"
    eager, compiled = trainer_of(tiny(words)), trainer_of(tiny(f"{words} --compile blocks"))
    for one, other in zip(steps(eager, 8), steps(compiled, 8), strict=True):
        assert other == pytest.approx(one, rel=1e-3)
    assert len(compiled.shapes.seen) > 2


def test_a_whole_network_whose_features_are_read_is_refused(tiny, trainer_of):
    with pytest.raises(InputError, match="got whole; choose --compile blocks"):
        trainer_of(tiny(f"{ALIGN} --compile whole"))


TWO = """
import torch
from convflow import create_model, distributed
from convflow.parallel.ddp import DDP
from convflow.training.compiling import compile_network
from tests.cases import perturb

def gradients(how):
    torch.manual_seed(0)
    model = create_model("dit", width=8, depth=1, num_heads=2, num_classes=2, in_channels=1)
    perturb(model)
    compile_network(model, how, backend="aot_eager")
    prepared = parallel.prepare(model)
    for step in range(2):
        x = torch.randn(2, 1, 8, 8) * (1 + distributed.rank())
        y = torch.zeros(2, dtype=torch.int64)
        parallel.backward(prepared(x, torch.rand(2), y).square().sum())
    return torch.cat([p.grad.flatten() for p in model.parameters()])

cpu = torch.device("cpu")
with distributed.process_group(cpu):
    parallel = DDP(cpu)
    truth, found = gradients("off"), gradients("blocks")
    print(bool(truth.abs().max() > 0), float((truth - found).norm() / truth.norm()) < 1e-5)
"""


@pytest.mark.slow
def test_two_processes_sum_the_gradients_of_a_compiled_network():
    assert run_two(["-c", TWO]) == ["True True\n"] * 2


def test_a_machine_without_a_compiler_is_told():
    def broken(*_):
        raise RuntimeError("no C++ compiler\nand a page more")

    torch.compiler.reset()
    with pytest.raises(InputError, match=r"torch\.compile works, got .*no C"):
        compile_network(torch.nn.Linear(2, 2), "whole", backend=broken)
