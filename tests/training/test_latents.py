"""Training from a store sees the latents that training from its images sees."""

import json

import pytest

from benchmarks.reliability import kills
from convflow.cli.main import main
from convflow.types import InputError
from tests.test_latents import TINY

MORE = [*TINY, "--monitor.log-every", "1", "--images", "24"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, autoencoder):
    """A folder with images, and two stores of them."""
    place = tmp_path_factory.mktemp("stored")
    data = str(kills.make_pictures(place / "images"))
    for name, dtype in (("whole", "float32"), ("half", "float16")):
        words = ["--codec.autoencoder", autoencoder, "--data.size", "32x48", "--records.shard", "9"]
        words += ["--records.dtype", dtype, "--codec.scale", "0.5", "--out", str(place / name)]
        assert main(["encode", data, *words, "--device", "cpu"]) == 0
    return place


def train(data, run, *more):
    return main(["train", "pictures.flowdcn", "--data", str(data), "--run", str(run), *MORE, *more])


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_losses_are_those_of_the_images(place, autoencoder, tmp_path, monkeypatch, caplog):
    codec = ["--codec", "latent", "--codec.autoencoder", autoencoder, "--codec.scale", "0.5"]
    assert train(place / "images", tmp_path / "images", *codec) == 0

    def fail(*_):
        raise InputError("no autoencoder here")

    with monkeypatch.context() as patch:
        patch.setattr("convflow.autoencoders.load", fail)
        assert train(place / "whole", tmp_path / "whole") == 0
    assert "no grid of samples: no autoencoder here" in caplog.text
    assert losses(tmp_path / "whole") == losses(tmp_path / "images")
    assert train(place / "half", tmp_path / "half") == 0
    assert losses(tmp_path / "half") == pytest.approx(losses(tmp_path / "images"), rel=1e-3)
    assert train(place / "whole", tmp_path / "whole", "--images", "32") == 0  # the run goes on
    assert len(losses(tmp_path / "whole")) == 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--codec latent --codec.autoencoder OTHER", "expected the autoencoder "),
        ("--data.size 32x32", "--data.size: expected 32x48 as in the store"),
        ("--data.channels 1", "--data.channels: expected 3 as"),
        ("--data.crop random", "--data.crop: expected center with a store"),
        ("--data.labels none", "expected no choice of labels"),
    ],
)
def test_settings_that_do_not_fit_the_store_are_refused(place, tmp_path, capsys, more, message):
    assert train(place / "whole", tmp_path / "run", *more.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_store_is_described_and_its_damage_found(place, tmp_path, capsys):
    assert main(["info", str(place / "half"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["sizes"], found["shards"]) == (22, ["32x48"], 3)
    path = place / "half/shard-00002.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert main(["info", str(place / "half")]) == 2
    assert "shard-00002.npy" in capsys.readouterr().err
