"""No step waits for the device but those that are logged, and divergence is found and named."""

import itertools
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

import tests.extending.align
import tests.parallel.average  # noqa: F401
from convflow.data.loader import batches
from convflow.training import checkpoint, draws, lookout
from convflow.training import trainer as loop
from convflow.training.optim import optimizer_tensors
from convflow.types import Diverged
from tests.parallel.sharded import LOSSES, MODELS

EVERY = 5
META = torch.device("meta")
"""A device without numbers: whatever waits for one raises an error."""


@pytest.fixture
def waiting(monkeypatch):
    """As on a GPU: the CPU is looked at every few steps."""
    monkeypatch.setattr(lookout, "waits_for_nothing", lambda device: False)


class Waits(TorchDispatchMode):
    """Counts what makes the program wait for numbers of the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        names = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal")
        self.count += function.overloadpacket.__name__ in names
        return function(*args, **(kwargs or {}))


WORDS = f"--monitor.log-every {EVERY} --optim.clip none --images 400"


def stream_of(found):
    config = found.config
    return batches(found.images, found.order, found.images_seen, config.batch_size)


def weights(found):
    state = optimizer_tensors(found.losses, found.optimizer)
    return state | found.model.state_dict() | found.ema.model.state_dict()


def test_only_steps_that_are_logged_wait(waiting, tiny, trainer_of):
    found, counts = trainer_of(tiny(WORDS)), []
    assert found.lookout.every == EVERY
    for batch in itertools.islice(stream_of(found), 2 * EVERY):
        with Waits() as waits:
            found.train_step(*batch)
        counts.append(waits.count)
    assert [count > 0 for count in counts] == ([False] * (EVERY - 1) + [True]) * 2


@pytest.fixture
def without_numbers(monkeypatch):
    """Let a training run on `META`, which lacks random numbers and autocast."""
    generator_of, draw_terms = draws.generator_of, draws.draw_terms

    def drawn(*given):
        terms, generator = draw_terms(*given)
        for name, drawn in terms.items():
            moved = tree_map(lambda x: x.to(META) if isinstance(x, Tensor) else x, drawn)
            terms[name] = moved
        return terms, generator

    monkeypatch.setattr(draws, "generator_of", lambda *key, device: generator_of(*key))
    monkeypatch.setattr(loop, "draw_terms", drawn)
    monkeypatch.setattr(loop.Trainer, "_autocast", lambda self: nullcontext())
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)  # torch's own


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("flowdcn", f"--ema.every 2 {LOSSES}", marks=pytest.mark.slow),
        pytest.param("dico", "--process ddpm --optim.schedule cosine", marks=pytest.mark.slow),
        ("sit", "--process dfm --sampling.steps 2 --micro-batch 3 --ema.snapshots 0"),
    ],
)
def test_a_run_on_a_device_without_numbers_gets_to_the_step_that_is_logged(
    name, words, without_numbers, tiny, trainer_of, monkeypatch
):
    given = (
        f"--images {8 * EVERY} --monitor.log-every {EVERY} --optim.clip 1 --monitor.validation 5"
    )
    found, calls = trainer_of(tiny(f"{given} {MODELS[name]} {words}"), device=META), []
    assert found.lookout.every == EVERY
    monkeypatch.setattr(found, "save", lambda monitor: calls.append(found.step))
    look = found.lookout.first_bad
    monkeypatch.setattr(found.lookout, "first_bad", lambda: calls.append("look") or look())
    with pytest.raises(RuntimeError, match="meta"):
        found.run()
    assert calls == ["look", EVERY - 1]


def test_the_numbers_are_those_of_looking_in_every_step(tiny, trainer_of, tmp_path, request):
    usual = trainer_of(tiny(WORDS), tmp_path / "usual")
    assert usual.lookout.every == 1
    first = [usual.train_step(*b) for b in itertools.islice(stream_of(usual), 2 * EVERY)]
    request.getfixturevalue("waiting")
    rare = trainer_of(tiny(WORDS), tmp_path / "rare")
    second = [rare.train_step(*b) for b in itertools.islice(stream_of(rare), 2 * EVERY)]
    assert [bool(metrics) for metrics in second] == ([False] * (EVERY - 1) + [True]) * 2
    assert second[EVERY - 1 :: EVERY] == first[EVERY - 1 :: EVERY]
    one, other = weights(usual), weights(rare)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("ends", ["look", "save"])
def test_the_step_that_broke_is_found_later_and_named(ends, waiting, tiny, trainer_of, tmp_path):
    found = trainer_of(tiny(WORDS))
    stream = stream_of(found)
    found.train_step(*next(stream))
    found.save()
    draw = found._draw

    def poisoned(*given):
        labels, draws = draw(*given)
        if found.images_seen == 16:  # of step 3
            draws["process"].noise[5] = torch.nan
        return labels, draws

    found._draw = poisoned
    found.train_step(*next(stream))
    before = {name: tensor.clone() for name, tensor in found.model.state_dict().items()}
    batch = next(stream)
    name = found.images.item_name(batch.indices[5])
    found.train_step(*batch)
    found.train_step(*next(stream))
    message = rf"not finite at step 3 \(images 16 to 24\); first in .*, with {name}; kept: .*0001"
    with pytest.raises(Diverged, match=message):
        found.save() if ends == "save" else found.train_step(*next(stream))
    assert all(torch.equal(before[key], t) for key, t in found.model.state_dict().items())
    assert checkpoint.list_steps(tmp_path / "run") == [1]


def test_a_run_ends_with_the_lines_of_a_run_that_looks_in_every_step(
    tiny, trainer_of, tmp_path, request
):
    words = f"{WORDS} --images 376"
    assert trainer_of(tiny(words), tmp_path / "usual").run()
    request.getfixturevalue("waiting")
    assert trainer_of(tiny(words), tmp_path / "rare").run()
    first, second = (tmp_path / name / "metrics.jsonl" for name in ("usual", "rare"))
    assert first.read_bytes() == second.read_bytes()
    assert first.read_text().count("\n") == 10


def test_muon_is_looked_at_in_every_step(waiting, tiny, trainer_of):
    assert trainer_of(tiny(f"{WORDS} --optim.kind muon")).lookout.every == 1
