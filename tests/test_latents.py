"""A model of an autoencoder's latents, from training to its scores, in rectangles of pixels."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.reliability import kills
from convflow.bundle.config import read_pipeline
from convflow.cli.main import main
from convflow.codecs import LatentCodec, PixelCodec
from convflow.pipeline import Pipeline
from convflow.recipes import create_config
from convflow.seeds import draw_noise
from convflow.settings.read import to_dict
from convflow.training import checkpoint
from convflow.training.build import build_trainer
from convflow.training.overrides import override
from convflow.training.trainer import Trainer
from convflow.types import InputError
from tests.cases import build

DETECTOR = str(Path(__file__).parent / "extending/detector.py:load")
TINY = (
    "--data.size 32x48 --data.channels 3 --model.patch-size 2 --model.width 16 --model.depth 1 "
    "--model.num-groups 2 --batch-size 8 --micro-batch 5 --monitor.tensorboard false "
    "--monitor.num-samples 2 --sampling.steps 2 --precision float32 --device cpu"
).split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return kills.make_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def words(data, autoencoder):
    more = ["--data", str(data), "--codec", "latent", "--codec.autoencoder", autoencoder]
    return [*more, "--codec.scale", "0.5", *TINY]


@pytest.fixture(scope="module")
def run(words, tmp_path_factory):
    """A run of four steps at once."""
    run = tmp_path_factory.mktemp("latents") / "run"
    given = ["--run", str(run), "--images", "32"]
    assert main(["train", "pictures.flowdcn", *words, *given]) == 0
    return run


def test_a_resumed_run_ends_with_the_same_bits(words, run, tmp_path):
    parts = tmp_path / "parts"
    for images in ("16", "32"):
        given = ["--run", str(parts), "--images", images]
        assert main(["train", "pictures.flowdcn", *words, *given]) == 0
    assert kills.differences(run, parts) == []
    assert (parts / "samples/images_0000000032_ema.png").is_file()


def test_the_settings_are_stored_and_the_autoencoder_is_not(run, autoencoder):
    folder = checkpoint.folder_of(run, 4)
    known = read_pipeline(json.loads((folder / "ema/pipeline.json").read_text()))
    assert known.codec == LatentCodec(autoencoder, 0.5, 0.0)
    assert known.size == (32, 48)
    assert json.loads((run / "config.json").read_text())["codec"]["scale"] == 0.5
    model = json.loads((folder / "ema/config.json").read_text())
    assert model["in_channels"] == 4
    stored = {path.name for path in folder.rglob("*.safetensors")}
    assert stored == {"model.safetensors", "optimizer.safetensors"}


def test_sizes_are_in_pixels_and_noise_in_cells(run, tmp_path, autoencoder, monkeypatch):
    pipe = Pipeline.from_pretrained(run, device="cpu")
    assert isinstance(pipe.codec, LatentCodec)
    noises = []

    def spy(*arguments):
        noises.append(draw_noise(*arguments))
        return noises[-1]

    monkeypatch.setattr("convflow.generate.draw_noise", spy)
    out = pipe(num=3, size=(64, 16), seed=2)
    assert noises[0].shape == (3, 4, 8, 2)
    assert out.pixels.shape == (3, 3, 64, 16)
    assert out.images[0].size == (16, 64)
    with pytest.raises(InputError, match=r"multiples of 16, got 40x48; the nearest .* is 32x48"):
        pipe(size=(40, 48))
    pipe.save_pretrained(tmp_path / "saved")
    again = Pipeline.from_pretrained(tmp_path / "saved", device="cpu")
    assert again.codec == pipe.codec
    assert again(num=3, size=(64, 16), seed=2).pixels.equal(out.pixels)


def test_the_commands_sample_score_and_tell(run, data, tmp_path, capsys, autoencoder):
    given = ["--num", "8", "--device", "cpu"]
    grid = str(tmp_path / "grid.png")
    assert main(["sample", str(run), *given, "--size", "16x32", "--out", grid]) == 0
    assert "8 images of 16x32" in capsys.readouterr().out
    card = tmp_path / "card.json"
    words = ["--reference", str(data), "--detector", DETECTOR, "--out", str(card)]
    assert main(["evaluate", str(run), *given, *words]) == 0
    described = json.loads(card.read_text())["sampling"]["codec"]
    assert len(described.pop("sha256")) == 64
    assert described == to_dict(LatentCodec(autoencoder, 0.5, 0.0))
    capsys.readouterr()
    assert main(["info", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["codec"]["autoencoder"] == autoencoder
    assert found["size"] == [32, 48]


def test_a_share_sees_its_rows_of_the_same_latents(words, tmp_path, monkeypatch):
    config = override(create_config("pictures.flowdcn"), words)
    trainer = build_trainer(config, tmp_path, torch.device("cpu"))[0]
    shape = (8, *trainer.shape)
    whole = trainer._draw_encoding(shape)
    assert whole.shape == (8, 4, 4, 6)
    assert whole.equal(trainer._draw_encoding(shape))
    for rank in range(3):
        monkeypatch.setattr(Trainer, "share", lambda self, rank=rank: slice(rank, None, 3))
        assert trainer._draw_encoding(shape).equal(whole[rank::3])
    trainer.images_seen += 8
    assert not trainer._draw_encoding(shape).equal(whole[2::3])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--data.channels 1", "--data.channels: expected 3 as the autoencoder"),
        ("--data.size 40x48", "multiples of 16, got 40x48"),
        ("--model.in-channels 3", "--model.in-channels: expected 4 as in the codec, got 3"),
        ("--codec pixel", "the codec pixel has no autoencoder; leave it out"),
        ("--codec latents", "unknown codec 'latents'; did you mean 'latent'?"),
        ("--codec.scale 0", "--codec.scale: expected a number above 0"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    words, tmp_path, capsys, more, message
):
    run = tmp_path / "run"
    given = ["train", "pictures.flowdcn", *words, *more.split(), "--run", str(run)]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not run.exists()


def test_a_network_of_other_channels_does_not_fit(autoencoder):
    with pytest.raises(InputError, match=r"a network of grey or colour images .* got 3 channels"):
        Pipeline(build("flowdcn"), LatentCodec(autoencoder), (16, 16))


@pytest.mark.parametrize("stored", [{}, {"codec": "pixel"}, {"codec": {"kind": "pixel"}}])
def test_a_pipeline_without_a_codec_or_with_its_name_alone_has_pixels(stored):
    known = read_pipeline({"size": [8, 8], "format": 1, **stored})
    assert known.codec == PixelCodec()
