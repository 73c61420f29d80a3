"""Features beside latents: alignment from a store is alignment with the encoder at hand."""

import json

import numpy as np
import pytest
import torch

from benchmarks.reliability import kills
from convflow.cli.main import main
from convflow.data.latents import Latents
from convflow.data.store import damaged_files
from convflow.objectives.alignment import Encoder
from convflow.training import encoding
from convflow.types import InputError
from tests.objectives.encoder import NAME, WIDTH
from tests.test_latents import TINY
from tests.training.test_latents import losses

MORE = [*TINY, "--monitor.log-every", "1", "--images", "24", "--precision", "float32"]
ALIGNED = ["--objectives.repa.encoder", NAME, "--objectives.repa.hidden", "8"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, autoencoder):
    """A folder with images, and stores of them with and without features."""
    place = tmp_path_factory.mktemp("stored")
    data = str(kills.make_pictures(place / "images"))
    words = ["--codec.autoencoder", autoencoder, "--codec.scale", "0.5", "--data.size", "32x48"]
    words += ["--records.shard", "9", "--records.dtype", "float32", "--device", "cpu"]
    seen = ["--features", NAME, "--features.grids", "4x6"]
    whole = [*seen, "--features.dtype", "float32"]
    for name, more in (("whole", whole), ("half", seen), ("none", [])):
        assert main(["encode", data, *words, *more, "--out", str(place / name)]) == 0
    return place


def train(data, run, *more):
    return main(["train", "pictures.flowdcn", "--data", str(data), "--run", str(run), *MORE, *more])


def with_features(*stores):
    latents = Latents("store", list(stores))
    latents.with_features = True
    return latents


def test_features_are_those_of_the_images_and_of_their_mirror(place, capsys):
    latents = with_features(place / "whole")
    config = encoding.override_encoding(
        encoding.EncodeConfig(), ["--data", str(place / "images"), "--data.size", "32x48"]
    )
    images, _ = encoding.scan_images(
        encoding.open_images(config.data), config.data, None, torch.device("cpu")
    )
    rows, flips = np.array([20, 1, 7]), np.array([False, True, True])
    truth = Encoder(NAME)(images.batch(rows, flips)[0], (4, 6))
    found = latents.features(rows, flips)
    assert found.shape == (3, 8, 12, WIDTH)
    torch.testing.assert_close(found, truth)
    half = with_features(place / "half").features(rows, flips)
    assert Latents("store", [place / "whole"]).features(rows) is None
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), truth, rtol=1e-3, atol=1e-3)
    assert not found.equal(latents.features(rows))
    assert main(["info", str(place / "half")]) == 0
    assert f"{WIDTH} of {NAME} at 8x12 places in float16" in capsys.readouterr().out


@pytest.mark.slow
def test_the_losses_are_those_of_the_encoder_at_hand(place, autoencoder, tmp_path, monkeypatch):
    codec = ["--codec", "latent", "--codec.autoencoder", autoencoder, "--codec.scale", "0.5"]
    watch = ["--monitor.validation", "5", "--monitor.validation.every", "1"]
    assert train(place / "images", tmp_path / "images", *codec, *ALIGNED, *watch) == 0

    def fail(*_):
        raise AssertionError("the encoder was asked")

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "width", lambda self: WIDTH)
        patch.setattr(Encoder, "__call__", fail)
        for name in ("whole", "half"):
            words = [*ALIGNED, *watch, "--micro-batch", "3"]
            assert train(place / name, tmp_path / name, *words) == 0
    expected = read(tmp_path / "images")
    assert "repa.negative_cosine" in expected[0]
    for name, close in (("whole", 1e-4), ("half", 1e-2)):
        for row, truth in zip(read(tmp_path / name), expected, strict=True):
            assert row == pytest.approx(truth, rel=close)
    assert losses(tmp_path / "whole") != losses(tmp_path / "half")


def read(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("none", ALIGNED, "expected images, or a store with features of its encoder, got"),
        (
            "whole",
            [*ALIGNED[:1], f"{__name__}:other", *ALIGNED[2:]],
            "--objectives.repa.encoder: expected tests.objectives.encoder:create as in the store",
        ),
        ("whole", [*ALIGNED, "--data.augment", "0.1"], "--data.augment: expected 0 with features"),
        (
            "whole",
            ["--objectives.align.kind", "tests.extending.align:Align"],
            "--objectives.align: expected images, or a store with features",
        ),
    ],
)
def test_a_store_of_other_features_is_refused(name, more, message, place, tmp_path, capsys):
    assert train(place / name, tmp_path / "run", *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run/config.json").exists()


def other():
    """An encoder with other features."""
    return lambda images: torch.zeros(len(images), WIDTH, 2, 2)


def test_stores_with_and_without_features_are_not_one(place, tmp_path):
    with pytest.raises(InputError, match="expected stores of one kind, got another features in"):
        Latents("both", [place / "whole", place / "none"])
    both = with_features(place / "whole", place / "whole")
    assert both.features(np.array([0, 22])).unbind()[0].equal(both.features(np.array([22]))[0])


def test_a_damaged_file_of_features_is_named(place, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    for path in (place / "whole").iterdir():
        (store / path.name).write_bytes(path.read_bytes())
    path = store / "features-00001.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    latents = with_features(store)
    assert list(damaged_files(store, latents.index)) == [path.name]
    for content in (whole[:-8], b"", None):
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(InputError, match=r"features-00001.npy cannot be read \(.*\); copy it"):
            latents.features(np.arange(22))


def test_encoding_features_goes_on_where_it_ended(place, autoencoder, tmp_path, monkeypatch):
    words = ["--codec.autoencoder", autoencoder, "--codec.scale", "0.5", "--data.size", "32x48"]
    words += ["--records.shard", "9", "--records.dtype", "float32", "--device", "cpu"]
    words += ["--features", NAME, "--features.grids", "4x6", "--features.dtype", "float32"]
    words = ["encode", str(place / "images"), *words, "--out", str(tmp_path / "parts")]
    write = encoding.write_shard

    def fail(folder, number, *more):
        if number == 1:
            raise KeyboardInterrupt
        write(folder, number, *more)

    with monkeypatch.context() as patch:
        patch.setattr(encoding, "write_shard", fail)
        assert main(words) == 130
    assert main(words) == 0
    for path in (place / "whole").glob("features-*.npy"):
        assert (tmp_path / "parts" / path.name).read_bytes() == path.read_bytes()


def test_bad_settings(place, autoencoder, tmp_path, capsys):
    words = ["encode", str(place / "images"), "--codec.autoencoder", autoencoder]
    words += ["--data.size", "32x48", "--out", str(tmp_path / "x"), "--device", "cpu"]
    for more, message in (
        (["--features", "dinov"], "unknown detector 'dinov'"),
        (["--features", NAME, "--features.grids", "4x6,6x4"], "one for each of 1 sizes, got 2"),
        (["--features", f"{__name__}:pooled"], "expected features that keep their places"),
        (["--features", f"{__name__}:infinite"], "give --features.dtype float32"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err


def pooled():
    """An encoder whose features have no place."""
    return lambda images: images.float().mean((2, 3))


def infinite():
    """An encoder whose features are too large for float16."""
    return lambda images: torch.full((len(images), 2, 2, 2), 1e6)
