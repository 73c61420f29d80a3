"""Models that come with the package: found by name, small enough, and they draw."""

import sys
from pathlib import Path

import pytest
import torch

import convflow
from convflow import shipped
from convflow.cli.main import main
from convflow.evaluation.card import Card, read_card
from convflow.pipeline import Pipeline
from convflow.storage import hash_tensors, read_tensors
from convflow.types import InputError
from tests.stand_in import put_stand_in

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import ship


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return put_stand_in(tmp_path / "models", monkeypatch)


def write_card(path, sha256):
    parts = ("pictures", "detector", "reference", "metrics", "library", "machine")
    Card(
        {"sha256": sha256, "folder": str(path.parent)}, None, **{part: {} for part in parts}
    ).write(path)


def test_a_name_stands_for_the_folder_in_commands_and_in_python(folder, tmp_path, capsys):
    assert shipped.path() == shipped.path("cifar10") == folder
    assert shipped.resolve("shipped:cifar10") == str(folder)
    assert shipped.resolve("cifar10") == "cifar10"
    assert shipped.called(str(folder)) == "shipped:cifar10"
    assert shipped.called("cifar10") == "cifar10"
    assert convflow.load_model("shipped:cifar10").num_classes == 10
    pipe = convflow.Pipeline.from_pretrained("shipped:cifar10", device="cpu")
    assert (pipe.folder, pipe.class_names[-1]) == (folder, "truck")
    words = ["sample", "shipped:cifar10", "--labels", "truck", "--num", "1", "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "x.png")]) == 0
    assert main(["info", "shipped:cifar10"]) == 0
    assert "airplane, automobile" in capsys.readouterr().out
    new = ["train", "pictures.flowdcn", "--data", "none", "--run", str(tmp_path / "run")]
    assert main([*new, "--init=shipped:cifra10"]) == 2
    assert "did you mean 'cifar10'?" in capsys.readouterr().err


def test_a_package_without_the_files_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shipped, "SHIPPED_FOLDER", tmp_path)
    with pytest.raises(InputError, match=r"expected the shipped model cifar10 in .*, found none"):
        shipped.path()
    assert main(["sample", "shipped:cifar10"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_stored_in_bfloat16_and_used_in_float32(folder, tmp_path):
    stored = read_tensors(folder / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    model = convflow.load_model(folder)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert all(model.state_dict()[name].equal(t.float()) for name, t in stored.items())


def test_a_run_is_shipped_with_its_settings_and_its_card(folder, tmp_path, monkeypatch):
    source = Pipeline.from_pretrained(folder, device="cpu")
    monkeypatch.setattr(ship, "SHIPPED_FOLDER", tmp_path / "new")
    card = tmp_path / "card.json"
    write_card(card, hash_tensors(source.model.state_dict()))
    given = ["--solver", "euler", "--steps", "3", "--guidance", "2", "--card", str(card)]
    said = ship.main([str(folder), "cifar10", *given])
    new = tmp_path / "new" / "cifar10"
    assert said == f"{new} holds shipped:cifar10"
    assert read_card(new / "card.json").scores == read_card(card).scores
    assert str(tmp_path) not in (new / "card.json").read_text(encoding="utf-8")
    sampling = Pipeline.from_pretrained(new, device="cpu").sampling
    assert (sampling.solver.kind, sampling.solver.steps, sampling.guidance) == ("euler", 3, 2)
    assert (new / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert "it has no card yet: convflow evaluate" in ship.main([str(folder), "cifar10"])
    assert not (new / "card.json").exists()


def test_what_cannot_be_shipped_leaves_the_old_one(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(ship, "SHIPPED_FOLDER", tmp_path / "new")
    ship.main([str(folder), "cifar10"])
    card = tmp_path / "card.json"
    write_card(card, "other")
    texts = put_stand_in(tmp_path / "models", monkeypatch, "emoji")
    grey = tmp_path / "grey"
    pipe = Pipeline.from_pretrained(folder, device="cpu")
    pipe.class_names = ("other",) * 10
    pipe.save_pretrained(grey)
    for run, words, message in (
        (folder, ["--card", str(card)], "expected a card of the weights of"),
        (grey, [], "expected a model of .*airplane.*, got one of .*other"),
        (texts, [], "expected a model of .*airplane.*, got one of texts"),
    ):
        with pytest.raises(InputError, match=message):
            ship.main([str(run), "cifar10", *words])
    monkeypatch.setattr(ship, "LARGEST_SHIPPED", 1000)
    with pytest.raises(InputError, match="expected at most 1,000 bytes, got"):
        ship.main([str(folder), "cifar10"])
    with pytest.raises(InputError, match=r"expected a model of texts, got one of .*airplane"):
        ship.main([str(folder), "emoji"])
    assert (tmp_path / "new" / "cifar10" / "model.safetensors").is_file()


@pytest.mark.parametrize("fails", ["flush", "rename"])
def test_a_disk_that_fails_leaves_the_old_one(fails, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(ship, "SHIPPED_FOLDER", tmp_path / "new")
    ship.main([str(folder), "cifar10"])
    names = [path.name for path in (tmp_path / "new").rglob("*")]
    honest, begun = Path.rename, []

    def rename(path, target):
        begun.append(target)
        if Path(target) == tmp_path / "new" / "cifar10" and len(begun) == 2:
            raise OSError(28, "No space left on device")
        return honest(path, target)

    def flush(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        *{"flush": (ship, "flush", flush), "rename": (Path, "rename", rename)}[fails]
    )
    with pytest.raises(InputError, match=r"could not write .*No space left"):
        ship.main([str(folder), "cifar10", "--steps", "3"])
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "new").rglob("*")] == names
    assert Pipeline.from_pretrained(tmp_path / "new" / "cifar10").sampling.solver.num_steps == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped.SHIPPED)
def test_the_model_of_the_package_is_small_has_a_card_and_draws_every_size(name):
    if not (shipped.SHIPPED_FOLDER / name).is_dir():
        pytest.skip("no model is in this checkout")
    folder, model = shipped.path(name), shipped.SHIPPED[name]
    assert sum(p.stat().st_size for p in folder.iterdir()) <= shipped.LARGEST_SHIPPED
    assert read_card(folder / "card.json").scores
    stored = read_tensors(folder / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    pipe = Pipeline.from_pretrained(folder, device="cpu")
    assert (pipe.class_names, tuple(pipe.size)) == (model.class_names, model.sizes[0])
    finite = []
    pipe.model.register_forward_hook(lambda _, given, out: finite.append(out.isfinite().all()))
    for size in model.sizes:
        pixels = pipe(num=2, prompts=model.prompts or None, size=size, seed=1).pixels
        assert pixels.shape == (2, 3, *size)
        assert pixels.float().std() > 10
    assert all(finite)
