"""`convflow info` describes sizes, recipes and folders, for people and as JSON."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from convflow.cli.main import main
from convflow.models.zoo import SIZES, load_model
from convflow.recipes import create_config, find_curve
from tests.cases import read_golden

ODD = "blocks.0.attn.qkv.weight"


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["info", *words]) == 0
    return capsys.readouterr().out


def test_lists_every_published_size(capsys: pytest.CaptureFixture[str]) -> None:
    text = ask(capsys)
    assert all(name in text for name in SIZES)
    assert "618.95 M" in text


def test_json_of_all_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(ask(capsys, "--json"))
    assert found["flowdcn-b/2"]["parameters"] == 120_099_296


def test_one_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(ask(capsys, "flowdcn-s/2", "--json"))["width"] == 384


def test_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(ask(capsys, "digits.flowdcn", "--json"))
    assert found["data"]["path"] == "digits"
    losses = find_curve("digits.flowdcn").losses
    assert found["loss reached here"] == {
        "of": find_curve("digits.flowdcn").origin,
        **{f"{images:,} images": loss for images, loss in losses.items()},
    }
    assert f"{max(losses):,} images" in ask(capsys, "digits.flowdcn")


def test_a_published_recipe_with_its_target(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(ask(capsys, "imagenet.dico_xl", "--json"))
    assert found["target"]["of"] == "paper, not reproduced here"
    assert found["target"]["fid"] == 2.05
    assert found["target"]["sfid"] is None
    assert found["optim"]["lr"] == 1e-4
    text = ask(capsys, "imagenet.dico_xl")
    assert "guidance               1.4" in text
    assert "fid                    2.05" in text
    assert "sfid" not in text
    assert "on_bad" not in text, "a default"
    assert main(["train", "imagenet.dico_xl", "--help"]) == 0
    assert "target: FID 2.05, IS 282.17" in capsys.readouterr().out


def test_a_run(capsys: pytest.CaptureFixture[str], tiny_run: Path) -> None:
    found = json.loads(ask(capsys, str(tiny_run), "--json"))
    assert found["images_seen"] == 8
    assert found["classes"] == [str(digit) for digit in range(10)]
    assert found["model"]["family"] == "flowdcn"
    text = ask(capsys, str(tiny_run))
    assert f"{found['parameters']:,}" in text
    assert "optim" in found["config"]
    assert text.splitlines()[1] == "images_seen              8"
    both = "the usual settings of the network and the settings of the training"
    assert text.splitlines()[-1] == f"--all prints {both}."
    assert "warmup_images" not in text
    assert len(text.splitlines()) < 40
    whole = ask(capsys, str(tiny_run), "--all")
    assert "warmup_images" in whole
    assert "--all" not in whole


def test_an_unknown_name_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "flowdcn-x/2"]) == 2
    assert "did you mean 'flowdcn-xl/2'?" in capsys.readouterr().err


def test_a_family(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ask(capsys, "dit").splitlines()
    assert [line.split()[0] for line in lines[1:13]] == [n for n in SIZES if n.startswith("dit-")]
    assert "GMACs 256      512     1024" in lines[0]
    assert lines[1].split()[3:6] == ["6.06", "31.44", "241.68"]
    assert "training" not in lines[0]


def test_memory_of_a_size(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["dit-s/8", "--batch-size", "2", "--size", "256x512", "--json"]
    memory = json.loads(ask(capsys, *words))["memory"]
    assert (memory["batch_size"], memory["pixels"]) == (2, [256, 512])
    training, sampling = memory["training"], memory["sampling"]
    assert training["AdamW moments"] == 2 * training["weights"]
    assert training["total"] == sum(v for k, v in training.items() if k != "total")
    assert sampling["weights"] == training["weights"]
    assert sampling["total"] == sampling["weights"] + sampling["activations"]
    default = json.loads(ask(capsys, "dit-s/8", "--json"))["memory"]
    assert (default["batch_size"], default["pixels"]) == (1, [256, 256])
    assert training["activations"] == pytest.approx(4 * default["training"]["activations"], rel=0.1)


def test_memory_reads_well_and_says_what_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = ask(capsys, "dit-s/8")
    assert "an estimate in float32" in text
    assert "\n    weights              126." in text
    assert " MiB\n" in text
    few = {name: size for name, size in SIZES.items() if name in ("dit-s/8", "fcdm-s")}
    monkeypatch.setattr("convflow.models.zoo.SIZES", few)
    table = ask(capsys, "--batch-size", "4")
    assert [line.split()[0] for line in table.splitlines()[1:3]] == ["fcdm-s", "dit-s/8"]
    assert "     training    sampling   settings" in table
    assert "Batches of 4 at 256x256 pixels.\nMemory is an estimate" in table


def test_memory_of_one_s_own_network(capsys: pytest.CaptureFixture[str], tiny_run: Path) -> None:
    words = ["--batch-size", "4", "--json"]
    memory = json.loads(ask(capsys, str(tiny_run), *words))["memory"]
    assert (memory["batch_size"], memory["pixels"]) == (4, [8, 8])
    model = load_model(next(tiny_run.glob("checkpoints/*/ema")))
    assert memory["sampling"]["weights"] == 4 * sum(p.numel() for p in model.parameters())
    larger = json.loads(ask(capsys, str(tiny_run), *words, "--size", "16x8"))["memory"]
    assert larger["training"]["activations"] > 1.5 * memory["training"]["activations"]
    assert "an estimate in float32" in ask(capsys, str(tiny_run), "--size", "8")
    assert "memory" not in json.loads(ask(capsys, str(tiny_run), "--json"))


@pytest.mark.slow
def test_memory_of_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    memory = json.loads(ask(capsys, "imagenet.dico_s", "--batch-size", "2", "--json"))["memory"]
    size = json.loads(ask(capsys, "dico-s", "--batch-size", "2", "--json"))["memory"]
    assert memory["pixels"] == [256, 256]
    assert memory["training"]["total"] == pytest.approx(size["training"]["total"], rel=0.01)
    text = ask(capsys, "digits.flowdcn", "--batch-size", "2")
    assert "\n  training\n    weights" in text
    assert "counted with 1000 classes" in text


def test_memory_in_latents_of_another_autoencoder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen pixels a cell, eight channels; its weights are nowhere."""
    config = {"block_out_channels": [8] * 5, "latent_channels": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    recipe = create_config("imagenet.dico_s")
    codec = replace(recipe.codec, autoencoder=str(tmp_path))
    other = replace(recipe, codec=codec)
    monkeypatch.setattr("convflow.recipes.create_config", lambda name: other)
    words = ["imagenet.dico_s", "--size", "512", "--json"]
    memory = json.loads(ask(capsys, *words))["memory"]
    size = json.loads(ask(capsys, "dico-s", "--size", "256", "--json"))["memory"]
    more = 4 * 9 * 128 * (4 + 4)  # of the stem, and of the head where it learns no variance
    assert memory["sampling"]["weights"] > size["sampling"]["weights"] + more / 2
    activations = (memory["sampling"]["activations"], size["sampling"]["activations"])
    assert activations[0] == pytest.approx(activations[1], rel=0.1)


def test_weights_that_are_no_whole_network_are_described_as_far_as_they_go(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    torch.save({ODD: torch.zeros(2)}, tmp_path / "odd.pt")
    assert main(["info", str(tmp_path / "odd.pt"), "--json"]) == 2
    out, err = capsys.readouterr()
    problem = json.loads(out)["problem"]
    assert "no published dit weights (expected x_embedder.proj.weight, which is not" in problem
    assert err.startswith(f"error: {problem}; ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "name", ["raw/model.safetensors", "optimizer.safetensors", "raw/pipeline.json"]
)
@pytest.mark.parametrize("damage", ["half", "empty", "folder"])
def test_a_run_is_described_beside_a_file_that_cannot_be_read(
    capsys: pytest.CaptureFixture[str], tiny_run: Path, tmp_path: Path, name: str, damage: str
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    path = next(run.glob("checkpoints/*")) / name
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "half" else b"")
    assert main(["info", str(run)]) == 2
    out, err = capsys.readouterr()
    assert "images_seen              8" in out
    assert err.startswith(f"error: {path} is damaged or ")
    assert err.count("\n") == 1
    # Each part of the run that is whole is described as ever.
    assert main(["info", str(path.parents[len(Path(name).parts) - 1] / "ema")]) == 0


def test_the_weights_of_a_run_that_cannot_be_read_are_named(
    capsys: pytest.CaptureFixture[str], tiny_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    path = next(run.glob("checkpoints/*/ema/model.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])
    for place in (run, path.parent, path):
        assert main(["info", str(place)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"error: {path} is damaged")
        assert err.count("\n") == 1


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".ckpt"])
def test_a_file_of_weights(capsys: pytest.CaptureFixture[str], tmp_path: Path, suffix: str) -> None:
    weights, path = read_golden("flowdcn_tiny")[0], tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({"ema": weights, "model": weights}, path)
    found = json.loads(ask(capsys, str(path), "--json"))
    assert (found["family"], found["model"]["width"]) == ("flowdcn", 48)
    assert found["averaged"] == (suffix != ".safetensors")
    assert f"parameters               {found['parameters']:,}" in ask(capsys, str(path))


def test_weights_of_ours_are_described_with_their_settings(
    capsys: pytest.CaptureFixture[str], tiny_run: Path
) -> None:
    path = next(tiny_run.glob("checkpoints/*/ema/model.safetensors"))
    found = json.loads(ask(capsys, str(path), "--json"))
    assert found["model"]["family"] == "flowdcn"
    assert found["weights"] == str(path.parent)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["P/notes.txt"], "is a file; give a run, checkpoint or model folder, or a file of weig"),
        (
            ["P/absent.pt"],
            "found nothing at 'P/absent.pt', expected a file of weights; ch",
        ),
        (["P/notes.pt"], "P/notes.pt is damaged or was never weights: it begins with b'notes'"),
        (["dit-s/3"], "unknown size, recipe, folder or file 'dit-s/3'; did you mean 'dit-s/"),
        (["dit-s/2", "--size", "100x256"], "multiples of 16, got 100x256; the nearest that works"),
        (["dit-s/8", "--size", "256x72"], "multiples of 64, got 256x72; the nearest that works is"),
        (["dico-s", "--size", "8x8"], "multiples of 32, got 8x8; the nearest that works is 32x32"),
        (["dico", "--size", "264"], "multiples of 32, got 264x264; the nearest that works is 256"),
        (["dico-s", "--size", "1000000000000000000"], "expected sides of at most 65536"),
        (["dico-s", "--batch-size", "1" + "0" * 17], "expected a batch whose bytes can be counted"),
        (["dit-s/2", "--batch-size", "0"], "--batch-size"),
        (["P/odd.pt", "--batch-size", "2"], "expected a size, a recipe, a run or a model folder"),
        (
            ["P/nothere"],
            "found nothing at 'P/nothere', expected a size, a recipe, a fold",
        ),
        (
            ["no/where"],
            "found nothing at 'no/where', expected a size, a recipe, a fold",
        ),
        ([""], "expected a size, recipe, folder or file, got ''"),
        (["P/empty"], "P/empty itself holds no run, checkpoint or model, nor does a folder in it"),
        (["P/runs"], "holds no run, checkpoint or model, but P/runs/a do; give one that does"),
        (["P/none.pt"], "P/none.pt: expected a state dict, got an empty dict"),
        (["P/numbered.pt"], "names and tensors, but it holds the Tensor 1"),
        (["P/notes.txt", "--size", "256"], "is a file; give a run"),
        (["P/two.pt"], "2 that could be meant: ema_a, ema_b; choose with part= (--part)"),
        (["P/two.pt", "--part", "c"], "unknown part 'c'; "),
        (["dit", "--part", "c"], "--part: expected it with a file of weights, got c; name one"),
    ],
)
def test_what_cannot_be_described_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], message: str
) -> None:
    for name in ("notes.txt", "notes.pt"):
        (tmp_path / name).write_text("notes")
    for name in ("empty", "runs/a/checkpoints"):
        (tmp_path / name).mkdir(parents=True)
    tensor = torch.zeros(2)
    two = {"ema_a": {ODD: tensor}, "ema_b": {ODD: tensor}}
    contents = {"numbered": {1: tensor}, "none": {}, "odd": {ODD: tensor}, "two": two}
    for name, key in contents.items():
        torch.save(key, tmp_path / f"{name}.pt")
    words = [word.replace("P/", f"{tmp_path}/") for word in words]
    assert main(["info", *words]) == 2
    assert message in capsys.readouterr().err.replace(f"{tmp_path}/", "P/")
