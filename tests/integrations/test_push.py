"""A model goes up to a Hub on loopback through the real client, and comes back the same."""

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

import convflow
from convflow.bundle.config import SamplingConfig
from convflow.integrations import push
from convflow.integrations.hub_card import HubPage
from convflow.integrations.push import (
    find_run,
    own_cards,
    read_nearest,
    upload,
    write_repository,
)
from convflow.pipeline import Pipeline
from convflow.samplers.solvers import create_solver
from convflow.types import InputError
from tests import hub_server
from tests.integrations.models import create_pipe, write_card


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with hub_server.serve(monkeypatch, tmp_path / "cache") as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files of a repository, with weights in shards, a card and a verdict."""
    place = tmp_path_factory.mktemp("push")
    write_card(place / "pets.json", **{"FID-8": 3.5})
    found = {"verdict": "near", "training_images": 9, "nearest": [["a"]]}
    (place / "nearest.json").write_text(json.dumps(found))
    (place / "out").mkdir()
    write_repository(
        create_pipe("dico"),
        place / "out",
        HubPage("me/pets", "mit", datasets=("me/pets",)),
        cards=[place / "pets.json"],
        nearest=place / "nearest.html",
        most=20_000,
    )
    return place / "out"


def test_the_files_of_a_repository(folder):
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    shards = {name for name in names if name.endswith(".safetensors")}
    pictures = {f"samples/{i:03}.png" for i in range(8)}
    assert len(shards) > 1
    assert names - shards == pictures | {
        "README.md", "config.json", "model.safetensors.index.json", "pipeline.json", "samples.png",
        "scores/pets.json", ".eval_results/pets.yaml",
    }  # fmt: skip
    assert np.asarray(Image.open(folder / "samples.png")).std() > 1
    text = (folder / "README.md").read_text()
    assert "It found samples nearer to training images" in text
    assert "FID-8" in text


def test_a_model_of_videos_shows_videos(tmp_path):
    solver = {"sampling": SamplingConfig(create_solver("euler", steps=1))}
    pipe = create_pipe("sit", settings={"temporal": "factorised"}, size=(4, 16, 8), **solver)
    (tmp_path / "out").mkdir()
    write_repository(pipe, tmp_path / "out", HubPage("me/clips"))
    for name in ("samples.gif", "samples/000.gif", "samples/007.gif"):
        with Image.open(tmp_path / "out" / name) as shown:
            assert shown.n_frames == 4
    text = (tmp_path / "out/README.md").read_text()
    assert "on videos of 4x16x8 (frames x height x width)" in text
    assert "--out samples.gif" in text
    assert "pipeline_tag" not in text
    again = Pipeline.from_pretrained(tmp_path / "out", device="cpu")
    assert again(num=1, seed=3).pixels.equal(pipe(num=1, seed=3).pixels)


def test_it_comes_back_the_same(hub, folder):
    assert upload(folder, "me/pets").endswith("/me/pets")
    files = hub.files("me/pets")
    assert files == {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert any("/objects/" in asked for asked in hub.asked)
    ours, again = create_pipe("dico"), Pipeline.from_pretrained("me/pets", device="cpu")
    pictures = [pipe(["hen"], num=1, seed=4).images[0].tobytes() for pipe in (ours, again)]
    assert pictures[0] == pictures[1]
    assert convflow.load_model("me/pets").settings == ours.model.settings


def test_a_revision_is_a_branch(hub, folder, tmp_path):
    upload(folder, "me/pets", revision="v1")
    assert hub.files("me/pets") == {}
    assert "config.json" in hub.files("me/pets", "v1")
    for what, how in (("me/pets@v1", {}), ("me/pets", {"revision": "v1"})):
        assert Pipeline.from_pretrained(what, device="cpu", **how).size == (16, 12)
        assert convflow.load_model(what, **how).family == "dico"
    with pytest.raises(InputError, match=r"no pipeline\.json with its size"):
        Pipeline.from_pretrained("me/pets")
    with pytest.raises(InputError, match="nor a repository"):
        Pipeline.from_pretrained("me/pets@v2")
    with pytest.raises(InputError, match="expected a Hub id like owner/name for the revision"):
        Pipeline.from_pretrained(str(tmp_path), revision="v1")


def test_an_upload_leaves_nothing_of_the_one_before(hub, folder, tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    write_repository(create_pipe("dico"), whole, HubPage("me/pets"))
    upload(folder, "me/pets")
    upload(whole, "me/pets")
    assert hub_server.written(hub.files("me/pets"), "*.safetensors*") == ["model.safetensors"]


def test_an_upload_removes_an_autoencoder_and_solvers_of_the_one_before(hub, folder, tmp_path):
    old = tmp_path / "old"
    for name in ("autoencoder/config.json", "solvers/a.json", "notes/mine.txt"):
        (old / name).parent.mkdir(parents=True)
        (old / name).write_text("{}")
    upload(old, "me/pets")
    upload(folder, "me/pets")
    left = {name.partition("/")[0] for name in hub.files("me/pets")}
    assert "notes" in left
    assert not left & {"autoencoder", "solvers"}


def test_two_cards_of_one_name_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"--card: expected files of different names, got two cal"):
        write_repository(
            create_pipe("dico"), tmp_path, HubPage("me/x"), cards=[tmp_path / "a/x.json"] * 2
        )


def test_what_the_client_refuses_is_no_matter_of_the_connection(hub, folder):
    with pytest.raises(InputError, match=r"its client refuses .*'me/a--b'.*mend what it names"):
        upload(folder, "me/a--b")


def test_the_images_seen_are_those_of_the_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(push, "_write_samples", lambda *_: ())
    run, pipe = tmp_path / "run", create_pipe("dico")
    (run / "metrics.jsonl").parent.mkdir()
    (run / "metrics.jsonl").touch()
    (run / "config.json").write_text("{}")
    for step in (1, 2):
        ema = run / f"checkpoints/step_{step:09}/ema"
        ema.mkdir(parents=True)
        (ema.parent / "state.json").write_text(json.dumps({"images_seen": 100 * step}))
        pipe.folder = ema
        out = tmp_path / f"out{step}"
        out.mkdir()
        assert write_repository(pipe, out, HubPage("me/x"), run=run).images_seen == 100 * step


def test_a_private_repository(hub, folder):
    upload(folder, "me/pets", private=True)
    assert hub.repositories["models", "me/pets"]["private"]
    upload(folder, "me/open")
    with pytest.raises(InputError, match="expected a private repository, got the public me/open"):
        upload(folder, "me/open", private=True)


def test_a_space_is_no_model(hub, tmp_path):
    (tmp_path / "space").mkdir()
    (tmp_path / "space/app.py").write_text("1")
    upload(tmp_path / "space", "me/demo", space=True)
    assert hub.files("me/demo", kind="spaces") == {"app.py": b"1"}


def test_no_token_no_permission_no_network(hub, folder, monkeypatch):
    with pytest.raises(InputError, match=r"403.*the token may not write there: give your own name"):
        upload(folder, "others/pets")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(InputError, match=r"401.*the token is not valid: run hf auth login"):
        upload(folder, "me/pets")
    monkeypatch.delenv("HF_TOKEN")
    asked = len(hub.asked)
    with pytest.raises(InputError, match=r"expected a token .* run: hf auth login"):
        upload(folder, "me/pets")
    assert len(hub.asked) == asked
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"cannot be reached .*check the connection, or write"):
        upload(folder, "me/pets")
    assert hub.repositories == {}


CODE = """
from convflow.models.dico import DiCo

TOUCHED = True


class Mine(DiCo):
    '''A network of a user.'''
"""


def test_no_code_of_a_repository_runs_unless_it_is_trusted(hub, tmp_path, monkeypatch):
    (tmp_path / "net_of_mine.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    settings = create_pipe("dico").model.settings
    del settings["family"]
    mine = convflow.create_model("net_of_mine:Mine", **settings)
    pipe = Pipeline(mine, create_pipe("dico").codec, (16, 12), ("cat", "dog", "hen"), device="cpu")
    (tmp_path / "out").mkdir()
    page = write_repository(pipe, tmp_path / "out", HubPage("me/mine"))
    assert page.own_code
    assert (tmp_path / "out/net_of_mine.py").read_text() == CODE
    upload(tmp_path / "out", "me/mine")
    monkeypatch.delitem(sys.modules, "net_of_mine")
    (tmp_path / "net_of_mine.py").unlink()
    for load in (Pipeline.from_pretrained, convflow.load_model):
        with pytest.raises(
            InputError, match="expected the code of the model family 'net_of_mine:M"
        ):
            load("me/mine")
        assert "net_of_mine" not in sys.modules
    again = Pipeline.from_pretrained("me/mine", device="cpu", trust_remote_code=True)
    assert again.model.family == "net_of_mine:Mine"
    assert sys.modules["net_of_mine"].TOUCHED
    monkeypatch.delitem(sys.modules, "net_of_mine")
    assert convflow.load_model("me/mine", trust_remote_code=True).family == "net_of_mine:Mine"


@pytest.mark.parametrize("module", ["kit.net", "suite"])
def test_code_that_is_no_single_file_cannot_move(module, tmp_path, monkeypatch):
    for name in ("kit", "suite"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(CODE if name == "suite" else "")
    (tmp_path / "kit/net.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    settings = create_pipe("dico").model.settings
    del settings["family"]
    mine = convflow.create_model(f"{module}:Mine", **settings)
    pipe = Pipeline(mine, create_pipe("dico").codec, (16, 12), device="cpu")
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=rf"code of yours in one file .*got the module {module}"):
        write_repository(pipe, tmp_path / "out", HubPage("me/mine"))


def test_a_run_is_found_from_its_checkpoints(tmp_path):
    ema = tmp_path / "run/checkpoints/step_000000001/ema"
    ema.mkdir(parents=True)
    assert find_run(ema) is None
    (tmp_path / "run/metrics.jsonl").touch()
    for place in (tmp_path / "run", ema.parent, ema):
        assert find_run(place).samefile(tmp_path / "run")
    assert find_run("owner/name") is None
    shutil.rmtree(tmp_path / "run")


def test_a_card_of_the_folder_is_its_own(tmp_path):
    assert own_cards(None) == own_cards(tmp_path) == []
    (tmp_path / "card.json").write_text('{"score": 1}')  # of another program
    assert own_cards(tmp_path) == []
    write_card(tmp_path / "card.json", **{"FID-8": 3.5})
    assert own_cards(tmp_path) == [tmp_path / "card.json"]


def test_a_verdict_must_be_one(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(InputError, match="that convflow nearest writes beside its page"):
        read_nearest(tmp_path / "x.html")
