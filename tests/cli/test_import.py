"""From a published file to images with one command, equal to the parts put together by hand."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from convflow.bench.models import perturb
from convflow.bundle.folder import find_weights
from convflow.cli.main import main
from convflow.codecs import SD_VAE, LatentCodec
from convflow.data.grid import tile
from convflow.models.convert import load_official
from convflow.models.layouts import published_name
from convflow.models.zoo import create_model, load_model
from convflow.nn.positions import sincos_positions
from convflow.processes.ddpm import DDPM
from convflow.processes.flow import FlowMatching
from convflow.samplers.guidance import guide
from convflow.samplers.solvers import create_solver
from convflow.seeds import draw_noise
from tests import hub_cache
from tests.autoencoder import save_autoencoder
from tests.cases import read_golden

RETRIEVER = 207
ANCESTRAL = partial(create_solver, "ddpm", steps=2)
SDE = partial(create_solver, "euler-maruyama", steps=2, last_step=0.04)
BY_HAND = {
    "flowdcn.ckpt": (FlowMatching(), SDE(diffusion="flowdcn", last="euler"), 1.375, None),
    "dico.pth": (DDPM(), ANCESTRAL(), 1.4, 3),
    "dit.pt": (DDPM(), ANCESTRAL(), 1.5, 3),
    "sit.safetensors": (FlowMatching(), SDE(), 1.5, 3),
    "diffusers": (DDPM(), ANCESTRAL(), 1.5, 3),
}
"""Process, solver, guidance and guided channels of each stand-in, as its paper has them."""


def transformer(family):
    """A transformer of one narrow block with a published width, in the names of its own code."""
    flag = "discard_half" if family == "sit" else "learned_variance"
    model = create_model(family, width=384, depth=1, num_heads=6, in_channels=4, **{flag: True})
    perturb(model)
    tensors = {published_name(n, "dit"): t.contiguous() for n, t in model.state_dict().items()}
    return tensors | {"pos_embed": sincos_positions(2, 2, 384, torch.empty(0)).reshape(1, 4, 384)}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A stand-in of every layout, and the cache of the Hub with an autoencoder and a DiT."""
    import diffusers

    place = tmp_path_factory.mktemp("published")
    flowdcn, dico = read_golden("flowdcn_tiny")[0], read_golden("dico_tiny")[0]
    averaged = {f"ema_denoiser.{n}": t for n, t in flowdcn.items()}
    raw = {f"denoiser.{n}": t * 2 for n, t in flowdcn.items()}
    torch.save({"state_dict": raw | averaged, "epoch": 3}, place / "flowdcn.ckpt")
    torch.save({f"module._orig_mod.{n}": t for n, t in dico.items()}, place / "dico.pth")
    dit = transformer("dit")
    torch.save({"model": {n: t * 2 for n, t in dit.items()}, "ema": dit}, place / "dit.pt")
    save_file(transformer("sit"), place / "sit.safetensors")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = diffusers.DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            out_channels=8,
            num_layers=1,
            sample_size=4,
            num_embeds_ada_norm=1000,
        )
    model.save_pretrained(place / "diffusers/transformer")
    hub_cache.put(place / "cache", "facebook/DiT-XL-2-256", place / "diffusers")
    save_autoencoder(place / "diffusers/vae")
    hub_cache.put(place / "cache", SD_VAE, place / "diffusers/vae")
    return place


@pytest.fixture(autouse=True)
def offline(published, monkeypatch):
    hub_cache.use(published / "cache", monkeypatch)


def sample(what, out, *more):
    given = "--num 2 --size 32x32 --steps 2 --zoom 1 --columns 2 --device cpu --out".split()
    return main(["sample", str(what), *given, str(out), *more])


def by_hand(weights, parts, label, autoencoder):
    """The grid that the network, guidance, solver and autoencoder make by the given label."""
    process, solver, scale, channels = parts
    model = load_official(weights, num_heads=2 if weights.is_dir() else None)
    around = partial(guide, null=model.conditions.null, scale=scale, kind="cfg", channels=channels)
    shape = (4, 4, 4)
    with torch.inference_mode():
        x = solver.run(
            process,
            lambda field_of: field_of(model).guided(around),
            draw_noise(0, range(2), shape),
            torch.tensor([label, label]),
            lambda step: draw_noise(0, range(2), shape, step),
        )
        return tile(LatentCodec(str(autoencoder)).open().decode(x), columns=2, zoom=1)


@pytest.mark.parametrize("name", BY_HAND)
def test_a_file_becomes_images_with_one_command(name, published, tmp_path):
    named = name in ("dit.pt", "sit.safetensors", "diffusers")
    label = ("golden retriever", RETRIEVER) if named else ("3", 3)
    assert sample(published / name, tmp_path / "a.png", "--label", label[0]) == 0
    found = np.asarray(Image.open(tmp_path / "a.png"))
    expected = by_hand(published / name, BY_HAND[name], label[1], published / "diffusers/vae")
    assert np.array_equal(found, np.asarray(expected))
    assert found.std() > 1


def test_an_imported_folder_samples_as_its_file_does(published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["--out", "new/dico", "--autoencoder", str(published / "diffusers/vae")]
    assert main(["import", str(published / "dico.pth"), *given]) == 0
    assert sample(published / "dico.pth", "a.png") == sample("new/dico", "b.png") == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert main(["info", "new/dico"]) == 0
    assert main(["import", str(published / "dico.pth"), *given]) == 2


def test_a_name_is_enough(published, tmp_path, caplog):
    asked = ["--labels", "golden retriever,207", "--guidance", "4"]
    with caplog.at_level(logging.INFO, "convflow"):
        assert sample("dit-xl/2-256", tmp_path / "a.png", *asked) == 0
        assert sample("facebook/DiT-XL-2-256", tmp_path / "b.png", "--label", "n02099601") == 0
    assert caplog.text.count("the licence CC-BY-NC-4.0 forbids commercial use") == 1
    assert "dit-xl/2-256: dit of no published size; ddpm, 256x256 pixels" in caplog.text
    parts = (*BY_HAND["diffusers"][:2], 4.0, 3)
    expected = by_hand(published / "diffusers", parts, RETRIEVER, published / "diffusers/vae")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), np.asarray(expected))


def test_a_file_is_evaluated_and_a_name_described(published, tmp_path, capsys):
    detector = f"{Path(__file__).parents[1]}/extending/detector.py:load"
    given = f"--num 6 --size 32x32 --steps 1 --device cpu --detector {detector}".split()
    out = tmp_path / "reference.npz"
    weights = str(published / "dico.pth")
    assert main(["evaluate", weights, "--save-statistics", str(out), *given]) == 0
    assert out.is_file()
    capsys.readouterr()
    assert main(["info", "dit-xl/2-256", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["licence"], found["target"]["fid"]) == ("CC-BY-NC-4.0", 2.27)


TRAINED = (
    "--data.size 32x32 --images 2 --batch-size 2 --sampling.steps 1 --monitor.num-samples 1 "
    "--monitor.tensorboard false --optim.schedule constant --optim.warmup-images 0 --device cpu"
).split()


def test_training_begins_from_the_file_and_goes_on_without_it(published, tmp_path):
    """Network, process and codec are those of the file: no word says them."""
    weights, run = tmp_path / "dico.pth", tmp_path / "run"
    shutil.copy(published / "dico.pth", weights)
    data = tmp_path / "data"
    for name in ("cat", "dog"):
        (data / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), len(data.name)).save(data / name / "0.png")
    words = ["train", "toy.shapes", "--init", str(weights), "--run", str(run), *TRAINED]
    words += ["--data", str(data)]
    assert main(words) == 0
    config = json.loads((run / "config.json").read_text())
    assert (config["process"]["kind"], config["codec"]["kind"]) == ("ddpm", "latent")
    model = load_model(find_weights(run, "raw"))
    file = load_official(weights)
    assert model.settings == file.settings | {"num_classes": model.num_classes}
    moved = model.state_dict()["body.stages.0.0.mlp.0.weight"]
    assert 0 < (moved - file.state_dict()["body.stages.0.0.mlp.0.weight"]).abs().max() < 0.01
    weights.unlink()
    assert main([*words, "--images", "4"]) == 0
    assert sample(run, tmp_path / "a.png") == 0


def test_a_damaged_download_is_named(published, tmp_path, capsys):
    hub_cache.put(tmp_path, "facebook/DiT-XL-2-256", published / "diffusers")
    with pytest.MonkeyPatch.context() as patch:
        hub_cache.use(tmp_path, patch)
        (file,) = tmp_path.glob("*/snapshots/*/transformer/*.safetensors")
        file.resolve().write_bytes(file.read_bytes()[:-1] + b"x")
        assert sample("dit-xl/2-256", tmp_path / "a.png") == 2
    said = f"{file} is damaged: expected the SHA-256 {file.resolve().name}"
    assert said in capsys.readouterr().err


class Malice:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sample", "P/dit.pt", "--label", "golden retreiver"], "mean 'golden retriever'"),
        (["sample", "P/dit.pt", "--weights", "raw"], "convflow import --part NAME takes others"),
        (["sample", "P/other.pt"], "no published weights of flowdcn, dico, dit, sit, but 1 tensor"),
        (["sample", "P/evil.pt"], "wants to run code when it is opened, and was refused"),
        (["sample", "P/x/nameless.pt"], "give family='dit' or family='sit' (convflow import"),
        (["sample", "dico-s"], "shallowdream204/DiCo on the Hugging Face Hub cannot be reached"),
        (["sample", "dit-xl/2-512"], "where there is one run: hf download facebook/DiT-XL-2-512 "),
        (["sample", "P/other.png"], "file of weights (.safetensors, .pt, .pth, .ckpt, .bin), got"),
        (["sample", "flowdcn-xl/2-256"], "expected weights with a known place on the Hugging"),
        (["import", "P/none.pt", "--out", "P/new"], "found nothing at 'P/none.pt', expected publi"),
        (
            ["import", "P/other.png", "--out", "P/new"],
            "got P/other.png; give a file that ends in .safetensors, .pt, .pth, .ckpt, .bin, or",
        ),
        (["import", "dit-xl/2-25", "--out", "P/new"], "dit-xl/2-25 on the Hugging Face Hub cannot"),
        (["import", "dit-xl-2-256", "--out", "P/new"], "found nothing at 'dit-xl-2-256', expected"),
        (["sample", "who/what/net.pt"], "who/what on the Hugging Face Hub cannot be reached"),
        (["import", "P/other.pt", "--out", "P/new"], "no published weights of flowdcn"),
        (["train", "toy.shapes", "--init", "P/other.pt"], "--init: P/other.pt holds no published"),
    ],
)
def test_what_cannot_be_used_is_one_line(words, said, published, tmp_path, capsys, monkeypatch):
    place = tmp_path / "P"
    (place / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    (place / "dit.pt").symlink_to(published / "dit.pt")
    (place / "x/nameless.pt").symlink_to(published / "dit.pt")
    (place / "other.png").write_bytes(b"")
    torch.save({"weight": torch.zeros(2)}, place / "other.pt")
    (place / "evil.pt").write_bytes(pickle.dumps({"a": Malice()}))
    before = sorted(tmp_path.rglob("*"))
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("error: ") == 1
    assert sorted(tmp_path.rglob("*")) == before
