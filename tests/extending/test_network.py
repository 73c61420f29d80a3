"""A network of a user's own, by its name on the command line and in Python."""

import json

import pytest
import torch

from convflow.cli.main import main
from convflow.models.zoo import create_model, load_model
from convflow.training.checkpoint import list_steps
from convflow.types import InputError
from tests.cases import perturb

NET = "tests.extending.network:Net"
TINY = (
    "--batch-size 4 --monitor.num-samples 2 --sampling.steps 1 --model.width 8 --device cpu"
).split()


def test_a_network_is_trained_resumed_and_sampled_by_its_name(tmp_path):
    run = str(tmp_path / "run")
    words = ["train", "digits.flowdcn", "--model.name", NET, "--run", run, *TINY]
    assert main([*words, "--images", "8"]) == 0
    assert main(["train", "--resume", run, "--images", "16", "--device", "cpu"]) == 0
    assert list_steps(tmp_path / "run")[-1] == 4
    out = tmp_path / "samples"
    assert main(["sample", run, "--num", "2", "--out", str(out), "--device", "cpu"]) == 0
    assert any(out.rglob("*.png"))


def test_its_folder_holds_its_settings_and_its_name(tmp_path):
    model = perturb(create_model(NET, in_channels=1, width=8))
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored == model.settings
    assert stored == {"family": NET, "in_channels": 1, "num_classes": 10, "width": 8, "depth": 2}
    x, t, y = torch.randn(2, 1, 5, 7), torch.rand(2), torch.tensor([0, 10])
    for again in (load_model(tmp_path), type(model).from_pretrained(tmp_path)):
        assert again.eval()(x, t, y).equal(model.eval()(x, t, y))


def test_a_network_keeps_its_name_where_its_class_is_wrapped():
    model = create_model(NET)
    model.__class__ = type("Sharded", (type(model),), {})  # as torch's fully_shard does
    assert model.settings["family"] == NET


def test_a_file_alone_imports_no_module(tmp_path, monkeypatch):
    (tmp_path / "unseen.py").write_text("raise SystemExit('ran')")
    monkeypatch.chdir(tmp_path)
    create_model(NET).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stored | {"family": "unseen:Net"}))
    with pytest.raises(InputError, match=r"config.json: expected the code of .* 'unseen:Net' to"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.extending.network:Nte", "did you mean 'Net'"),
        ("tests.extending.nothing:Net", "expected a module tests.extending.nothing"),
        (
            "tests.extending.network:nn",
            "expected a subclass .*Backbone, got an object of type module",
        ),
    ],
)
def test_a_name_that_is_no_network_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        create_model(name)
