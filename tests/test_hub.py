"""What is a repository on the Hub, what is a missing path, and the nearest path that is there."""

import pytest

from convflow.hub import at_revision, download, fetching, is_id, missing, split_revision
from convflow.types import InputError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "runs" / "typo").mkdir(parents=True)
    (tmp_path / "models").mkdir()
    (tmp_path / "home" / "nets").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    "name", ["owner/name", "stabilityai/sd-vae-ft-ema", "a/FLUX.1-dev", "a/b@v1.0", "a/b@refs/pr/1"]
)
def test_owner_and_name_are_a_repository(name):
    assert is_id(name)


PATHS = [
    "runs/tpyo", "models/x", "tpyo", "a/b/c", "./a", "../a", "/a/b", "/a", "~/nets", "a\\b", "a/",
    "a/b.safetensors", "a/b.PT", "a/b c", "a/.b", "", "hf:a/b",
]  # fmt: skip


@pytest.mark.parametrize("name", PATHS)
def test_what_looks_like_a_path_is_missing_and_never_asked_for(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", pytest.fail)
    assert not is_id(name)
    with pytest.raises(InputError, match=r"found nothing at .*, expected a model"):
        download(name, ["*"], "a model")


def test_runs_is_a_folder_even_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "models")
    assert not is_id("runs/tpyo")


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("runs/tpyo", "runs/typo"),
        ("run/typo", "runs/typo"),
        ("rnus/else/ema", "runs"),
        ("~/nets", "home/nets"),
        ("runs/zzzz", None),
    ],
)
def test_the_nearest_path_is_named(path, near):
    words = str(missing(path, "a run"))
    assert words.startswith(f"found nothing at {path!r}, expected a run; ")
    assert f"{near}'?" in words if near else words.endswith("; check the path")


@pytest.mark.parametrize(
    ("name", "hint"), [("who/what", "check the name"), ("run/typo", "did you mean 'runs/typo'")]
)
def test_a_repository_that_is_not_found_may_be_a_missing_folder(name, hint, monkeypatch):
    def fail(*_, **__):
        raise OSError("offline\nand a long story")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    expected = f"neither a folder '{name}' here nor a repository .*\\(offline\\); {hint}"
    with pytest.raises(InputError, match=expected):
        download(name, ["*"], "a model")


@pytest.mark.parametrize("revision", ["v1.0", "main", "a" * 40, "refs/pr/1"])
def test_a_revision_is_split_off_and_asked_for(revision, monkeypatch, tmp_path):
    asked = []

    def fetch(name, **how):
        asked.append((name, how["revision"]))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert split_revision(f"owner/name@{revision}") == ("owner/name", revision)
    assert at_revision("owner/name", revision) == f"owner/name@{revision}"
    download(f"owner/name@{revision}", ["*"], "a model")
    download("owner/name", ["*"], "a model")
    assert asked == [("owner/name", revision), ("owner/name", None)]


@pytest.mark.parametrize(
    ("name", "revision"),
    [("runs/typo", "v1"), ("./a", "v1"), ("a/b@v1", "v2"), ("a/b", "-r f"), ("a/b", "")],
)
def test_a_revision_of_something_else_is_refused(name, revision):
    with pytest.raises(InputError, match=r"expected a (Hub id|branch)"):
        at_revision(name, revision)


def test_the_advice_to_fetch_knows_the_revision():
    assert fetching("me/pets") == "where there is one run: hf download me/pets --local-dir pets"
    told = fetching("me/pets@v2", "*.json")
    assert "hf download me/pets --revision v2 --include '*.json' --local-dir pets" in told
