"""`convflow push`: the files of a dry run are those that go up, and `sample` takes them back."""

import hashlib
import json

import pytest
from PIL import Image

from convflow.cli.main import main
from tests import hub_server
from tests.integrations.models import write_card
from tests.stand_in import put_stand_in


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with hub_server.serve(monkeypatch, tmp_path / "cache") as server:
        yield server


def test_a_run_goes_up_as_the_dry_run_wrote_it(hub, tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--device", "cpu", "--license", "mit", "--revision", "v1"]
    assert main(["push", str(tiny_run), "me/digits", "--dry-run", "dry", *options]) == 0
    assert hub.asked == []
    assert capsys.readouterr().out == "wrote dry; nothing was uploaded\n"
    assert main(["push", str(tiny_run), "me/digits", *options]) == 0
    assert capsys.readouterr().out == f"{hub.endpoint}/me/digits\n"
    paths = [path for path in (tmp_path / "dry").rglob("*") if path.is_file()]
    dry = {path.relative_to(tmp_path / "dry").as_posix(): path.read_bytes() for path in paths}
    digests = [
        {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        for files in (dry, hub.files("me/digits", "v1"))
    ]
    assert digests[0] == digests[1]
    text = dry["README.md"].decode()
    assert "| images seen | 8 |" in text
    assert "convflow sample me/digits@v1" in text
    settings = json.loads(dry["training/config.json"])
    assert "/" not in json.dumps(settings["data"]["path"])
    if "training/loss.png" in dry:
        assert "(training/loss.png)" in text
        assert Image.open(tmp_path / "dry/training/loss.png").size[0] > 300
    words = "sample me/digits@v1 --num 2 --steps 1 --out s.png --device cpu".split()
    assert main(words) == 0
    assert Image.open("s.png").size[0] > 8


def test_a_missing_token_is_said_before_any_image_is_drawn(hub, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    assert main(["push", "nowhere", "me/digits"]) == 2
    assert "expected a token of the Hugging Face Hub" in capsys.readouterr().err


def test_a_space_shows_a_model_of_the_hub(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["push", "me/pets", "me/demo", "--space"]) == 0
    assert capsys.readouterr().out == f"{hub.endpoint}/spaces/me/demo\n"
    assert b"'me/pets'" in hub.files("me/demo", kind="spaces")["app.py"]


def test_a_space_shows_a_model_of_the_package(tmp_path, monkeypatch, capsys):
    folder = put_stand_in(tmp_path / "models", monkeypatch)
    monkeypatch.chdir(tmp_path)
    words = ["push", "shipped:cifar10", "me/demo", "--space", "--dry-run"]
    assert main([*words, "space"]) == 0
    assert "serve('shipped:cifar10', host=None)" in (tmp_path / "space/app.py").read_text()
    assert str(folder) not in "".join(path.read_text() for path in (tmp_path / "space").iterdir())
    capsys.readouterr()
    folder.rename(tmp_path / "other")
    assert main(["push", "other", "me/demo", "--space", "--dry-run", "again"]) == 2
    assert "expected a model on the Hub like owner/name" in capsys.readouterr().err


def test_a_model_of_the_package_has_its_card_and_its_licence(tmp_path, monkeypatch):
    folder = put_stand_in(tmp_path / "models", monkeypatch)
    write_card(folder / "card.json", **{"FD-8": 3.5})
    write_card(tmp_path / "mine.json", **{"IS-8": 2.5})
    monkeypatch.chdir(tmp_path)
    words = ["push", "shipped:cifar10", "me/pets", "--device", "cpu", "--dry-run"]
    assert main([*words, "usual"]) == 0
    page = (tmp_path / "usual/README.md").read_text()
    assert "license: apache-2.0" in page
    assert "| FD-8 | 3.5 |" in page
    assert (tmp_path / "usual/scores/card.json").is_file()
    assert main([*words, "asked", "--license", "mit", "--card", "mine.json"]) == 0
    page = (tmp_path / "asked/README.md").read_text()
    assert "license: mit" in page
    assert "| IS-8 | 2.5 |" in page
    assert "FD-8" not in page


def test_what_cannot_be_done_is_one_line(hub, tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = str(tiny_run)
    assert main(["push", run, "others/digits", "--device", "cpu"]) == 2
    assert "error: the Hugging Face Hub refused others/digits (403" in capsys.readouterr().err
    assert main(["push", "nowhere", "me/digits", "--dry-run", "dry"]) == 2
    assert not (tmp_path / "dry").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".writing")] == []
