"""Words of the command line in, checked settings out."""

import dataclasses
import re
from shlex import split

import pytest

from convflow.recipes import create_config
from convflow.samplers.solvers import create_solver
from convflow.training.config import TrainConfig
from convflow.training.overrides import describe_options, override
from convflow.types import InputError


def test_words_reach_their_keys():
    words = "--optim.lr 2e-4 --data.size=64x48 --batch-size 32 --data.on_bad skip --data pets"
    config = override(TrainConfig(), words.split())
    assert config.optim.lr == 2e-4
    assert config.data.size == (64, 48)
    assert config.batch_size == 32
    assert config.data.on_bad == "skip"
    assert config.data.path == "pets"


def test_settings_of_the_network_keep_their_own_types():
    config = override(TrainConfig(), split("--model.width 64 --model.reach 2.5 --model.norm rms"))
    config = override(config, ["--model.discard-half", "True"])
    wanted = {"width": 64, "reach": 2.5, "norm": "rms", "discard_half": True}
    assert config.model == {"name": "flowdcn-s/2"} | wanted


@pytest.mark.parametrize("text", ["1,2,1,3,10", "1x2x1x3x10", "[1,2,1,3,10]"])
def test_several_numbers_for_a_setting_of_the_network(text):
    assert override(TrainConfig(), ["--model.depths", text]).model["depths"] == [1, 2, 1, 3, 10]


def test_every_setting_of_the_network_is_described_with_its_default():
    recipe = create_config("digits.flowdcn")
    rows = {
        key: value for key, value, _ in describe_options(override(recipe, ["--model.name", "dico"]))
    }
    assert rows["model.name"] == "dico"
    assert rows["model.depths"].count(",") == 4
    assert not {"model.num-groups", "model.num-classes", "model.in-channels"} & rows.keys()


def test_another_network_brings_its_own_settings():
    recipe = create_config("pictures.flowdcn")
    words = split("--model.in-channels 3 --model.name flowdcn-b/2 --model.depth 2")
    wanted = {"name": "flowdcn-b/2", "in_channels": 3, "depth": 2}
    assert override(recipe, words).model == wanted
    same = override(recipe, ["--model.name", recipe.model["name"]])
    assert same.model == recipe.model


def test_a_group_may_stand_for_its_first_key():
    words = "--process.variance small --process ddpm --data pets"
    config = override(TrainConfig(), words.split())
    assert (config.process.kind, config.process.variance) == ("ddpm", "small")
    with pytest.raises(InputError, match="the process ddpm has no schedule; leave it out, or"):
        override(config, ["--process.schedule=linear"])
    assert override(TrainConfig(), ["--process.kind=ddpm"]).process.kind == "ddpm"
    assert override(config, ["--process", "flow"]).process.kind == "flow"


def test_none_clears_an_optional_key():
    config = override(TrainConfig(), ["--micro-batch", "4"])
    assert config.micro_batch == 4
    assert override(config, ["--micro-batch", "none"]).micro_batch is None


def test_the_last_of_two_values_counts():
    assert override(TrainConfig(), split("--seed 1 --seed 2")).seed == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--optm.lr 1", "unknown option '--optm.lr'; did you mean '--optim.lr'?"),
        ("--batch 1", "did you mean '--batch-size'?"),
        ("--images", "expected a value after it"),
        ("--images --seed 1", "expected a value after it"),
        ("word", "expected an option"),
        ("-- 1", "expected an option"),
        ("--images 0", "--images: expected a whole number of at least 1, got '0'"),
        ("--images 1.5", "--images: expected a whole number, got '1.5'"),
        (f"--images {10**30}", "--images: expected a whole number of at most "),
        ("--micro-batch 0", "--micro-batch: expected a whole number of at least 1"),
        ("--seed -1", "--seed: expected a whole number of at least 0"),
        ("--optim.lr 0", "--optim.lr: expected a number above 0"),
        ("--optim.lr nan", "--optim.lr: expected a number above 0"),
        ("--optim.lr inf", "--optim.lr: expected a finite number"),
        ("--optim.betas 0.9,1", "--optim.betas: expected a number below 1, got '0.9,1'"),
        ("--optim.betas 0.9", "--optim.betas: expected two numbers such as 0.5,2, got '0.9'"),
        (
            "--process dfm --process.factors 2,-1",
            "--process.factors: expected a whole number of at least 2",
        ),
        (
            "--process dfm --process.factors 1",
            "--process.factors: expected a whole number of at least 2, got '1'",
        ),
        (
            "--process dfm --process.probabilities 1,0",
            "expected a number above 0",
        ),
        (
            "--process dfm --process.weights 1,0",
            "expected a number above 0",
        ),
        (
            "--sampling.guidance nan",
            "--sampling.guidance: expected a finite number, got 'nan'",
        ),
        ("--data.size 64", "--data.size: expected two numbers such as 64x48, or three of a video"),
        ("--data.size 0x8", "--data.size: expected a whole number of at least 1, got '0x8'"),
        ("--data.size axb", "--data.size: expected two numbers"),
        ("--data.flip maybe", "--data.flip: expected true or false, got 'maybe'"),
        ("--data.channels 2", "--data.channels: expected 1 or 3, got '2'"),
        ("--optim.schedule sine", "expected constant or linear or cosine or wsd, got 'sine'"),
        ("--label-dropout 1.5", "--label-dropout: expected a number of at most 1"),
        ("--process ddmp", "unknown process 'ddmp'; did you mean 'ddpm'?"),
        ("--process.schedule sine", "unknown schedule 'sine'; did you mean 'cosine'?"),
        ("--process.prediction eps", "expected data or noise or velocity or score, got 'eps'"),
        (
            "--process ddpm --process.variance none",
            "--process.variance: expected learned or small or large",
        ),
        ("--process.shift 0", "--process.shift: expected a number above 0"),
        ("--process.locatin 1", "did you mean '--process.location'?"),
        ("--ema 3", "--ema is a group; set one of --ema.decay"),
        ("--model flowdcn", "--model is a group; set one of its keys"),
        ("--model.width.x 3", "expected --model.SETTING"),
        ("--model.name 3", "--model.name: expected the name of a network"),
        ("--model.reach NaN", "--model.reach: expected a finite number"),
    ],
)
def test_what_does_not_fit_is_named(words, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        override(TrainConfig(), words.split())
    assert "\n" not in str(caught.value)


def test_describe_lists_every_key_in_a_form_that_can_be_given_back():
    config = create_config("digits.flowdcn")
    rows = {key: value for key, value, _ in describe_options(config)}
    groups = [f for f in dataclasses.fields(config) if dataclasses.is_dataclass(f.default)]
    assert {f"{f.name}." for f in groups} <= {key.split(".")[0] + "." for key in rows}
    words = [word for key, value in rows.items() for word in (f"--{key}", value)]
    again = override(TrainConfig(), words)
    assert dataclasses.replace(again, model=config.model) == config
    assert config.model.items() <= again.model.items()
    assert all(text for key, _, text in describe_options(config))


def test_another_solver_starts_without_the_settings_of_the_recipe_s():
    words = split("--sampling.solver euler-maruyama --sampling.diffusion flowdcn")
    recipe = override(TrainConfig(), [*words, *split("--sampling.last-step 0.04")])
    assert (recipe.sampling.solver.diffusion, recipe.sampling.solver.last_step) == ("flowdcn", 0.04)
    heun = override(recipe, ["--sampling.solver", "heun"])
    assert heun.sampling.solver == create_solver("heun", last_step=0.04)
    assert override(recipe, split("--sampling.steps 1")).sampling.solver.last_step is None
    assert override(recipe, split("--sampling.last-step none")).sampling.solver.last_step is None
    assert override(recipe, split("--sampling.steps 9")).sampling.solver.diffusion == "flowdcn"
    with pytest.raises(InputError, match="the solver heun has no diffusion; leave it out"):
        override(recipe, split("--sampling.solver heun --sampling.diffusion constant"))


def test_stages_on_the_command_line():
    words = split("--process dfm --sampling.stage-steps 30,10 --sampling.thresholds 0.7")
    scales = override(TrainConfig(), words)
    assert (scales.sampling.solver.steps, scales.sampling.solver.stage_steps) == (40, (30, 10))
    assert scales.sampling.solver.thresholds == (0.7,)
    assert override(scales, split("--sampling.steps 8")).sampling.solver.stage_steps == ()
    assert override(scales, split("--sampling.stage-steps none")).sampling.solver.steps == 40
    assert override(scales, ["--process", "flow"]).sampling.solver.stage_steps == ()
    rows = {key: value for key, value, _ in describe_options(scales)}
    assert rows["sampling.solver.stage-steps"] == "30,10"
    assert (rows["optim.betas"], rows["data.size"]) == ("0.9,0.999", "8x8")
    assert (rows["process.weights"], rows["model.stage-embedding"]) == ("none", "False")
    assert not {"model.backbone", "model.factors"} & rows.keys()
    recipe = override(TrainConfig(), split("--sampling.shift 3 --sampling.last-step 0.04"))
    plain = override(recipe, ["--process", "dfm"]).sampling.solver
    assert (plain.shift, plain.last_step) == (1.0, None)
    random = override(TrainConfig(), split("--sampling.solver ddpm --sampling.steps 250"))
    taken = override(random, ["--process", "dfm"]).sampling.solver
    assert taken == create_solver("euler", steps=40)
    fewer = override(random, split("--process dfm --sampling.steps 12"))
    assert fewer.sampling.solver.steps == 12
    assert (
        override(random, split("--process dfm --sampling.solver heun")).sampling.solver.steps == 250
    )
    with pytest.raises(InputError, match="numbers such as 2,2, got 'a'"):
        override(scales, split("--sampling.stage-steps a"))
    with pytest.raises(InputError, match="stage-steps that sum up to 9 steps"):
        override(scales, split("--sampling.stage-steps 5,5 --sampling.steps 9"))
