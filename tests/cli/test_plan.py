"""The plan of a training, against counts by hand and against the estimate it stands on."""

import json

import pytest

from convflow.cli.main import main
from convflow.cli.plan import UNITS, USABLE
from convflow.models import cost
from convflow.models.zoo import create_model
from convflow.recipes import create_config
from convflow.training.overrides import override
from convflow.training.tuning import limit_training

SETTINGS = {"width": 8, "depths": [1, 1, 1, 1, 1]}
WORDS = "--model.name dico --model.width 8 --model.depths 1,1,1,1,1 --data.size 16x16"
DICO = ["digits.flowdcn", *WORDS.split()]


COST = cost.Cost(1, 1.0, 100, 10)


def build():
    return create_model("dico", **SETTINGS, in_channels=1, num_classes=1000)


def planned(capsys, *words):
    assert main(["plan", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def measured(monkeypatch):
    """Every network costs the same, which is found at once; how it was asked for."""
    asked = []
    monkeypatch.setattr(cost, "measure_cost", lambda *given: asked.append(given) or COST)
    return asked


def test_the_numbers_add_up_and_rest_on_the_estimate(capsys):
    words = ["--devices", "4", "--memory", "1GB", "--precision", "float32", "--batch-size", "10"]
    found = planned(capsys, *DICO, *words)
    model = build()
    whole = sum(p.numel() for p in model.parameters())
    blocks = [sum(p.numel() for p in block.parameters()) for block in model.trunk_blocks]
    assert found["parameters"] == whole
    assert found["memory"]["ddp"] == found["memory"]["single"]
    single, fsdp = found["memory"]["single"], found["memory"]["fsdp"]
    assert single["held"] == 20 * whole
    gathered = 4 * (2 * (whole - sum(blocks)) + 4 * max(blocks))
    assert fsdp["gathered"] == gathered
    assert fsdp["held"] == pytest.approx(5 * whole + gathered, abs=16)
    assert (found["checkpoint"], found["batch_on_a_device"]) == (16 * whole, 3)
    assert [*single["recompute"]] == ["none", "blocks", "every-2"]
    for choice, each in found["bytes_for_an_image"].items():
        row = single["recompute"][choice]
        assert row["total"] == 20 * whole + 3 * each
        left = USABLE * UNITS["GB"] - 20 * whole
        assert row["batch_that_fits"] * each <= left < (row["batch_that_fits"] + 1) * each
    measured = cost.measure_cost(build, (16, 16))
    image = found["bytes_for_an_image"]
    assert image["none"] == measured.saved + measured.live
    assert image["blocks"] < image["every-2"] < image["none"]


def test_one_device_has_one_engine_and_muon_keeps_less(capsys, measured):
    adamw, muon = (planned(capsys, *DICO, "--optim.kind", kind) for kind in ("adamw", "muon"))
    assert [*adamw["memory"]] == ["single"]
    less, usual = (plan["memory"]["single"]["optimizer"] for plan in (muon, adamw))
    assert 4 * adamw["parameters"] < less < usual == 8 * adamw["parameters"]
    assert "hours" not in adamw
    assert [half for *_, half, _, _ in measured] == [True] * 6  # in bfloat16


@pytest.mark.slow
def test_frozen_parameters_have_no_average_gradients_and_moments(capsys):
    words = ["--precision", "float32", "--devices", "2"]
    usual = planned(capsys, *DICO, *words)
    found = planned(capsys, *DICO, *words, "--freeze", "embed*,body*")
    trained = sum(p.numel() for p in build().project.parameters())
    whole = found["parameters"]
    assert 0 < trained == found["trained"] < whole == usual["trained"]
    assert found["memory"].keys() == {"single", "ddp"}
    assert found["memory"]["ddp"]["held"] == 4 * whole + 16 * trained
    assert found["checkpoint"] == 4 * (2 * whole + 2 * trained)
    assert found["bytes_for_an_image"]["none"] < usual["bytes_for_an_image"]["none"]


@pytest.mark.slow
def test_adapters_are_counted_beside_the_network(capsys):
    pytest.importorskip("peft")
    words = [*DICO, "--precision", "float32"]
    usual, found = planned(capsys, *words), planned(capsys, *words, "--lora.rank", "2")
    whole, trained = usual["parameters"], found["trained"]
    assert found["parameters"] == whole + trained
    network, config = build(), override(create_config(words[0]), [*words[1:], "--lora.rank", "2"])
    limit_training(config, network, (), None)
    assert trained == sum(p.numel() for p in network.parameters() if p.requires_grad) > 0
    assert found["memory"]["single"]["held"] == 4 * whole + 20 * trained
    assert (found["checkpoint"], found["base"]) == (16 * trained, 4 * whole)
    assert main(["plan", *words, "--lora.rank", "2"]) == 0
    assert "the network beside the adapters, once in the run" in capsys.readouterr().out


def test_hours_and_latents(capsys, measured):
    words = ["--images-per-second", "100", "--num-images", "10", "--images", "720000"]
    latent = ["--codec", "latent", "--data.size", "32x64", "--data.channels", "3"]
    found = planned(capsys, *DICO, *latent, *words)
    assert found["hours"] == 2
    assert found["latents"] == 10 * 2 * 4 * (4 * 8 * 4)  # images, moments, bytes, cells
    assert main(["plan", *DICO, *latent, *words, "--devices", "2", "--memory", "1GiB"]) == 0
    said = capsys.readouterr().out
    assert "720,000 images at 100 images/s: 2.0 hours" in said
    assert said.count("every-2") == 3
    assert "fsdp = weights" in said


def test_help_teaches(capsys):
    for words in (["--help"], ["digits.flowdcn", "--help"]):
        assert main(["plan", *words]) == 0
        assert "--images-per-second" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--devices", "8"], "expected a recipe first"),
        (["digits.flowdc"], "did you mean 'digits.flowdcn'"),
        (["digits.flowdcn", "--memory", "80"], "memory such as 80GB"),
        (["digits.flowdcn", "--memory", "0GB"], "memory such as 80GB"),
        (["digits.flowdcn", "--devices", "0"], "--devices"),
        (["digits.flowdcn", "--optim.lt", "1"], "did you mean '--optim.lr'"),
    ],
)
def test_what_does_not_fit_is_named(words, message, capsys):
    assert main(["plan", *words]) == 2
    assert message in capsys.readouterr().err
