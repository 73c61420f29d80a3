"""Encoding goes on after an end at any shard, and gives what encoding at once gives."""

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.reliability import kills
from convflow.cli.main import main
from convflow.codecs import LatentCodec
from convflow.data.latents import Latents
from convflow.data.store import damaged_files
from convflow.training import encoding
from convflow.training.config import DataConfig
from convflow.training.encoding import EncodeConfig, encode, override_encoding
from convflow.types import InputError
from convflow.videos import write_video
from tests.autoencoder import save_tiny
from tests.test_latents import TINY

SIZES = ((16, 24), (24, 16))


@pytest.fixture(scope="module")
def config(tmp_path_factory, autoencoder):
    place = kills.make_pictures(tmp_path_factory.mktemp("pictures"))
    (place / "even/2.txt").write_text("grey noise")
    words = [
        "--data",
        str(place),
        "--data.size",
        "16x24",
        "--records.shard",
        "5",
        "--device",
        "cpu",
    ]
    words += ["--codec.autoencoder", autoencoder, "--records.dtype", "float32"]
    return override_encoding(EncodeConfig(), words)


def test_a_store_holds_the_moments_of_both_views(config, tmp_path, caplog):
    index = encode(config, tmp_path / "store")
    latents = Latents("store", [tmp_path / "store"])
    assert (index.count, len(index.shards), latents.size) == (22, 5, (16, 24))
    assert latents.class_names == ("even", "odd")
    assert latents.item_name(0) == "even/0.png"
    said = {latents.item_name(i): latents.caption(i) for i in range(22)}
    assert {name: text for name, text in said.items() if text} == {"even/2.png": "grey noise"}
    images, _ = encoding.scan_images(
        encoding.open_images(config.data), config.data, None, torch.device("cpu")
    )
    assert latents.fingerprint == images.fingerprint
    rows, flips = np.array([20, 1, 7]), np.array([False, True, True])
    codec = LatentCodec(config.codec.autoencoder)
    pixels, labels = images.batch(rows, flips)
    found, theirs = latents.batch(rows, flips)
    torch.testing.assert_close(found, codec.moments(pixels))
    assert labels.equal(theirs)
    assert list(damaged_files(tmp_path / "store", index)) == []
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()}
    with caplog.at_level(logging.INFO, "convflow"):
        assert encode(config, tmp_path / "store") == index
    assert "already finished" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()} == before
    other = override_encoding(config, ["--data.size", "24x16"])
    with pytest.raises(InputError, match=r"was made with other settings or images \(sizes\)"):
        encode(other, tmp_path / "store")


def test_encoding_goes_on_where_it_ended(config, tmp_path, monkeypatch):
    whole = encode(config, tmp_path / "whole")
    write, wrote = encoding.write_shard, []

    def fail(folder, number, *more):
        if number == 2:
            raise KeyboardInterrupt
        wrote.append(number)
        write(folder, number, *more)

    monkeypatch.setattr(encoding, "write_shard", fail)
    with pytest.raises(KeyboardInterrupt):
        encode(config, tmp_path / "parts")
    with pytest.raises(InputError, match="unfinished"):
        Latents("parts", [tmp_path / "parts"])
    other = override_encoding(config, ["--records.dtype", "float16"])
    with pytest.raises(InputError, match=r"begun with other settings or images \(records\)"):
        encode(other, tmp_path / "parts")
    monkeypatch.setattr(
        encoding, "write_shard", lambda *given: wrote.append(given[1]) or write(*given)
    )
    again = encode(config, tmp_path / "parts")
    assert wrote == [0, 1, 2, 3, 4]
    assert again == whole
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == sorted(
        p.name for p in (tmp_path / "whole").iterdir()
    )


def test_each_image_goes_to_the_size_of_its_ratio(config, tmp_path, caplog):
    place = kills.make_pictures(tmp_path / "images")
    (place / "odd/1.txt").write_text("nothing")
    Image.new("L", (12, 8)).save(place / "odd/1.png")
    words = [
        "--data",
        str(place),
        "--data.sizes",
        "16x24,24x16",
        "--records.contents",
        "sample",
        "--data.flip",
        "false",
    ]
    index = encode(override_encoding(config, words), tmp_path / "store")
    assert index.sizes == SIZES
    assert (index.arrays, index.flipped) == (1, False)
    latents = Latents("store", [tmp_path / "store"])
    rows = np.flatnonzero((latents.sides == SIZES[0]).all(1))
    assert [latents.item_name(row) for row in rows] == ["odd/1.png"]
    assert latents.batch(rows, size=SIZES[0])[0].shape == (1, 1, 4, 2, 3)
    assert latents.batch(rows[:0], size=SIZES[0])[0].shape == (0, 1, 4, 2, 3)
    assert {tuple(side) for side in latents.sides} == set(SIZES)
    with pytest.raises(InputError, match="alone, got others"):
        latents.batch(rows, size=SIZES[1])
    run = ["pictures.flowdcn", "--data", str(tmp_path / "store"), "--run", str(tmp_path / "run")]
    run += [*TINY, "--images", "8", "--model.patch-size", "1", "--data.size", "16x24"]
    run += ["--data.sizes", "16x24,24x16", "--monitor.validation", "18", "--data.flip", "false"]
    run += ["--monitor.validation.every", "1", "--monitor.log-every", "1", "--device", "cpu"]
    with caplog.at_level(logging.INFO, "convflow"):
        assert main(["train", *run]) == 0  # both sizes are among those held back
    assert caplog.text.count("captions are not used: the network is told classes") == 1
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert all("validation_loss_ema" in json.loads(line) for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--codec", "pixel"], "--codec: expected latent"),
        (["--data.crop", "random"], "--data.crop: expected center"),
        (["--data.sizes", "16x16,32x32"], "each size to have another ratio"),
        (["--data.size", "12x12"], "multiples of 8"),
        (["--data", "nowhere"], "expected data at nowhere"),
    ],
)
def test_what_cannot_be_encoded_is_refused(config, tmp_path, words, message):
    with pytest.raises(InputError, match=message):
        encode(override_encoding(config, words), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_folder_of_something_else_is_left_alone(config, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match=r"expected an empty folder, got .* with letter.txt"):
        encode(config, tmp_path)
    assert isinstance(config.data, DataConfig)


def test_a_store_holds_clips_of_videos(tmp_path):
    save_tiny("AutoencoderKLWan", tmp_path / "vae")
    noise = np.random.default_rng(0).integers(0, 256, (2, 11, 16, 16, 1), np.uint8)
    for name, frames in zip("ab", noise, strict=True):
        (tmp_path / "data" / name).mkdir(parents=True)
        write_video(tmp_path / "data" / name / "0.webp", frames, rate=8)
    words = f"--data {tmp_path}/data --data.size 5x16x16 --codec.autoencoder {tmp_path}/vae"
    words += " --records.dtype float32 --device cpu"
    config = override_encoding(EncodeConfig(), words.split())
    index = encode(config, tmp_path / "store")
    assert (index.count, index.frame_factor, index.sizes) == (4, 4, ((5, 16, 16),))
    latents = Latents("store", [tmp_path / "store"])
    assert latents.videos
    assert (latents.shape, latents.item_name(1)) == ((3, 5, 16, 16), "a/0.webp from frame 5")
    found, labels = latents.batch(np.array([3, 0]), np.array([True, False]))
    assert found.shape == (2, 2, 4, 2, 2, 2)
    assert labels.tolist() == [1, 0]
    clips = [noise[1, 5:10, :, ::-1], noise[0, :5]]
    videos = torch.from_numpy(np.stack(clips)).movedim(-1, 1).expand(-1, 3, -1, -1, -1)
    moments = LatentCodec(f"{tmp_path}/vae").moments(videos.contiguous())
    torch.testing.assert_close(found, moments)
    means = found.new_tensor(index.mean)
    whole, _ = latents.batch(np.arange(4))
    mirrored, _ = latents.batch(np.arange(4), np.ones(4, np.bool_))
    both = torch.cat([whole, mirrored])[:, 0].movedim(1, 0).flatten(1).mean(1)
    torch.testing.assert_close(means, both)
    for words, message in (
        (["--data.size", "4x16x16"], "multiple of 4 frames and one more"),
        (["--data.clips", "random"], "--data.clips: expected windows"),
        (["--features", "dinov2"], "--features: expected none for videos"),
    ):
        with pytest.raises(InputError, match=message):
            encode(override_encoding(config, words), tmp_path / "other")
