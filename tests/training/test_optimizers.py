"""Optimizers by name: who takes which parameter, and that going on is exact with each."""

import dataclasses
import itertools
import json

import pytest
import torch

from convflow.data.loader import batches
from convflow.training import launch
from convflow.training.changes import check_changes, find_changes
from convflow.training.config import TrainConfig
from convflow.training.keys import from_dict
from convflow.training.optim import create_optimizer, optimizer_tensors
from convflow.training.optimizers import OPTIMIZERS, AdamW, Muon, OptimConfig
from convflow.training.overrides import describe_options, override
from convflow.types import InputError
from tests.cases import build

KINDS = [*OPTIMIZERS, "tests.extending.optimizer:SGD"]


def stream_of(trainer):
    config = trainer.config
    return batches(trainer.images, trainer.order, trainer.images_seen, config.batch_size)


def weights(trainer):
    state = optimizer_tensors(trainer.losses, trainer.optimizer)
    average = {f"ema.{name}": t for name, t in trainer.ema.model.state_dict().items()}
    return {n: t.clone() for n, t in (state | trainer.model.state_dict() | average).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_is_exact_with_every_kind(kind, tiny, trainer_of, tmp_path):
    config = tiny(f"--optim.kind {kind} --optim.weight-decay 0.1 --optim.lr-scale embed*=0.5")
    straight = trainer_of(config, tmp_path / "straight")
    stream = stream_of(straight)
    for batch in itertools.islice(stream, 4):
        straight.train_step(*batch)
    folder = straight.save()
    resumed = trainer_of(config, tmp_path / "resumed")
    resumed.load(folder)
    before, again = weights(straight), weights(resumed)
    assert before.keys() == again.keys()
    assert all(torch.equal(before[name], again[name]) for name in before)
    others = stream_of(resumed)
    for _ in range(4):
        assert straight.train_step(*next(stream)) == resumed.train_step(*next(others))
    expected, got = weights(straight), weights(resumed)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert any(not torch.equal(before[name], expected[name]) for name in before)


@pytest.mark.parametrize("name", ["flowdcn", "dico", "fcdm", "dit"])
def test_muon_takes_the_matrices_inside_blocks_and_adamw_all_else(name):
    model = build(name)
    optimizer = create_optimizer(model, Muon(lr=1e-3))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    for key, parameter in model.named_parameters():
        inside = key.startswith(("blocks.", "body.stages."))
        matrix = inside and parameter.ndim == 2
        kept = {"momentum_buffer"} if matrix else {"step", "exp_avg", "exp_avg_sq"}
        assert set(optimizer.state[parameter]) == kept, key


def test_a_matrix_moves_as_torchs_muon_moves_it_and_a_bias_as_adamw_does():
    torch.manual_seed(0)
    model, twin = build("dit"), build("dit")
    twin.load_state_dict(model.state_dict())
    optimizer = create_optimizer(model, Muon(lr=0.01, weight_decay=0.1, momentum=0.9))
    matrix, bias = twin.blocks[0].mlp[0].weight, twin.blocks[0].mlp[0].bias
    rivals = [
        torch.optim.Muon(
            [matrix], lr=0.01, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW([bias], lr=0.01, weight_decay=0, fused=True),
    ]
    for _ in range(3):
        for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            theirs.grad = mine.grad.clone()
        for one in (optimizer, *rivals):
            one.step()
    assert torch.equal(model.blocks[0].mlp[0].weight, matrix)
    assert torch.equal(model.blocks[0].mlp[0].bias, bias)


def test_muon_without_blocks_is_refused():
    with pytest.raises(InputError, match="blocks have a Modulation for muon"):
        create_optimizer(torch.nn.Linear(2, 2), Muon())


def test_rates_are_scaled_by_names(tiny, trainer_of):
    words = "--optim.lr-scale embed_label*=0,embed*=0.5,project.out*=2 --optim.warmup-images 0"
    trainer = trainer_of(tiny(f"{words} --optim.lr 0.001"))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train_step(*next(stream_of(trainer)))
    rates = {
        id(p): group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]
    }
    for name, parameter in trainer.model.named_parameters():
        factor = 0.5 if name.startswith("embed") else 2 if name.startswith("project.out") else 1
        factor = 0 if name.startswith("embed_label") else factor
        assert rates[id(parameter)] == 0.001 * factor
        assert factor or torch.equal(parameter, before[name])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--optim.lr-scale embed*", "got 'embed\\*'"),
        ("--optim.lr-scale embed*=-1", "factors of at least 0"),
        ("--optim.lr-scale embed*=inf", "factors of at least 0"),
        ("--optim.decay-images 8", "with --optim.schedule wsd and only there"),
        ("--optim.schedule wsd", "give the images of the fall"),
        ("--optim.momentum 0.9", "the optimizer adamw has no momentum; .*choose muon"),
        ("--optim.kind muun", "did you mean 'muon'"),
        ("--optim.kind muon --optim.newton-schulz 100", "at most 99"),
        ("--optim.kind tests.extending.optimizer:SGD --optim.betas 0.9,0.9", "has no betas"),
    ],
)
def test_settings_that_do_not_fit_are_refused(words, message, tiny):
    with pytest.raises(InputError, match=message):
        tiny(words)


def test_a_pattern_that_fits_nothing_is_refused(tiny, trainer_of):
    with pytest.raises(InputError, match="'emb_\\*', which fits none"):
        trainer_of(tiny("--optim.lr-scale emb_*=2"))


class Forgetful(OptimConfig):
    """Leaves a parameter out."""

    def create(self, model):
        """Return SGD over all but the first."""
        return torch.optim.SGD(list(model.parameters())[1:], lr=self.lr)


def test_an_optimizer_that_misses_a_parameter_is_refused():
    with pytest.raises(InputError, match="take all that is trained, got none for weight"):
        create_optimizer(torch.nn.Linear(2, 2), Forgetful())
    with pytest.raises(InputError, match="cannot be built"):
        create_optimizer(torch.nn.Linear(2, 2), OptimConfig())


def test_another_kind_keeps_what_it_shares_with_the_recipes():
    config = override(TrainConfig(), ["--optim.betas", "0.9,0.95", "--optim.lr", "0.002"])
    muon = override(config, ["--optim", "muon", "--optim.momentum", "0.9"])
    assert muon.optim == Muon(lr=0.002, betas=(0.9, 0.95), momentum=0.9)
    assert override(muon, ["--optim.kind", "adamw"]).optim == AdamW(lr=0.002, betas=(0.9, 0.95))
    shown = {key: value for key, value, _ in describe_options(muon)}
    assert (shown["optim"], shown["optim.momentum"]) == ("muon", "0.9")


def test_settings_of_before_there_were_kinds_are_those_of_adamw():
    old = {"lr": 0.1, "betas": [0.9, 0.9], "weight_decay": 0.2, "schedule": "linear", "clip": None}
    optim = AdamW(lr=0.1, betas=(0.9, 0.9), weight_decay=0.2, schedule="linear", clip=None)
    assert from_dict({"optim": old}).optim == optim


def test_another_kind_on_resume_is_refused_by_name(tiny, tmp_path):
    config, run = tiny("--images 16"), tmp_path / "run"
    assert launch.train(config, run)
    other = dataclasses.replace(override(config, ["--optim.kind", "muon"]), images=32)
    with pytest.raises(InputError, match=r"optim\.kind \(adamw, now muon\).*--init .*--optim.kind"):
        launch.train(other, run)
    check_changes(find_changes(config, override(config, ["--optim.lr", "0.1"])), run)
    assert json.loads((run / "config.json").read_text())["optim"]["kind"] == "adamw"
