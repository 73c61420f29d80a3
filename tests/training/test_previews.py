"""Grids of samples: an end between any two calls of the network, and which are kept."""

import itertools
import math
import signal

import pytest
import torch
from PIL import Image

from convflow.bench.models import perturb
from convflow.codecs import LatentCodec, PixelCodec
from convflow.data.grid import tile
from convflow.pipeline import Pipeline
from convflow.samplers.guidance import GUIDANCE_KINDS
from convflow.training import checkpoint
from convflow.training.previews import grid_codec, thin
from convflow.types import InputError
from tests.autoencoder import save_tiny

CHOICES = {
    "cfg": "--sampling.guidance 3 --sampling.solver euler-maruyama --sampling.last-step 0.04",
    "cfg-zero": "--sampling.guidance 3 --sampling.solver heun --sampling.label-policy random",
    "interval": "--sampling.interval 0.2x0.8 --sampling.channels-guided 1 --sampling.solver ab2",
    "scales": "--process dfm --sampling.solver euler --sampling.stop-scale 1",
}


@pytest.mark.parametrize("choice", CHOICES)
def test_a_grid_shows_what_sample_and_evaluate_draw(choice, tiny, trainer_of, tmp_path):
    """From the same weights, seed and settings; CFG-Zero* leaves out the same steps."""
    kind = choice if choice in GUIDANCE_KINDS else "cfg"
    words = f"{CHOICES[choice]} --sampling.guidance-kind {kind} --sampling.steps 30"
    trainer = trainer_of(tiny(f"{words} --monitor.num-samples 5"))
    perturb(trainer.ema.model)
    trainer.write_samples()
    trainer.save()
    pipe = Pipeline.from_pretrained(tmp_path / "run", device="cpu")
    samples = pipe.samples()
    assert samples.describe() == trainer.previews.samples.describe()
    zoom = 64 // max(samples.size)
    tile(pipe(num=5).pixels, zoom=zoom).save(tmp_path / "expected.png")
    made = (tmp_path / "run/samples/images_0000000000_ema.png").read_bytes()
    assert made == (tmp_path / "expected.png").read_bytes()


def test_a_tiny_autoencoder_decodes_grids(autoencoder, tmp_path):
    """From model space, whatever the constants of the autoencoder whose latents they are."""
    tiny = save_tiny("AutoencoderTiny", tmp_path / "tiny")
    codec = LatentCodec(autoencoder, 0.5, 1.0)
    assert grid_codec("", codec) is codec
    x = torch.randn(2, 4, 3, 3)
    with torch.no_grad():
        expected = PixelCodec().decode(tiny.decode(x).sample)
    assert grid_codec(str(tmp_path / "tiny"), codec).decode(x).equal(expected)
    said = "--monitor.decoder: expected an AutoencoderTiny of 4 channels and 8x8 pixels a cell, got"
    with pytest.raises(InputError, match=f"{said} the AutoencoderKL .* leave it out"):
        grid_codec(autoencoder, codec)
    with pytest.raises(InputError, match=r"AutoencoderTiny of 0 channels and 1x1 pixels"):
        grid_codec(str(tmp_path / "tiny"), PixelCodec())


def test_a_network_that_gives_no_numbers_ends_no_training(tiny, trainer_of, tmp_path):
    trainer = trainer_of(tiny())
    next(trainer.model.parameters()).data.fill_(math.nan)
    trainer.write_samples()
    assert len(list((tmp_path / "run/samples").iterdir())) == 2


def test_samples_are_readable_pictures_from_both_kinds_of_weights(tiny, trainer_of, tmp_path):
    trainer = trainer_of(tiny("--monitor.num-samples 5"))
    trainer.images_seen = 8
    trainer.write_samples()
    names = sorted(path.name for path in (tmp_path / "run/samples").iterdir())
    assert names == ["images_0000000008_ema.png", "images_0000000008_raw.png"]
    with Image.open(tmp_path / "run/samples" / names[0]) as picture:
        picture.load()
        assert picture.mode == "L"
        assert picture.size == (3 * 66 + 2, 2 * 66 + 2)


SOLVERS = [
    "--sampling.solver euler",
    "--sampling.solver heun",
    "--sampling.solver dopri5",
    "--sampling.solver dpm++",
    "--sampling.solver stochastic-heun",
    "--process ddpm --sampling.solver ddpm",
    "--process ddpm --sampling.solver ddim",
    "--process dfm",
]


@pytest.mark.parametrize("words", SOLVERS)
def test_previews_stop_before_any_call_of_the_network(tiny, trainer_of, tmp_path, words):
    steps = "" if "dopri5" in words else "--sampling.steps 8"
    trainer, made = trainer_of(tiny(f"{words} {steps}")), []
    for network in (trainer.model, trainer.ema.model):
        network.register_forward_pre_hook(lambda *_: made.append(1))
    for calls in (0, 1, 9):
        made.clear()
        trainer.write_samples(lambda calls=calls: len(made) == calls)
        assert len(made) == calls
        assert not (tmp_path / "run/samples").exists()
        assert trainer.model.training
    trainer.write_samples()
    assert len(list((tmp_path / "run/samples").iterdir())) == 2


def test_a_signal_while_previews_are_drawn_saves_without_them(tiny, trainer_of, tmp_path):
    words = "--monitor.samples-minutes 1e-9 --sampling.steps 50"
    trainer, drawn = trainer_of(tiny(words)), []

    def interrupt(*_):
        if not trainer.model.training:
            drawn.append(1)
            if len(drawn) == 3:
                signal.raise_signal(signal.SIGINT)

    trainer.model.register_forward_pre_hook(interrupt)
    assert not trainer.run()
    assert len(drawn) == 3
    assert checkpoint.list_steps(tmp_path / "run") == [trainer.step]
    assert not (tmp_path / "run/samples").exists()


def names_of(folder):
    return {int(path.name[7:17]) for path in folder.glob(f"images_{10 * '?'}_raw.png")}


def test_first_last_and_powers_of_two_are_kept_however_often_it_is_thinned(tmp_path):
    seen = [3 + 100 * i for i in range(1000)]
    others = ["images_5_raw.png", "images_0000000777_raw.jpg", "mine.png"]
    for name in others:
        (tmp_path / name).touch()
    for count, nth in itertools.product(seen, ("raw", "ema")):
        (tmp_path / f"images_{count:010d}_{nth}.png").touch()
        if nth == "ema":
            thin(tmp_path)
    powers = [2**k for k in range(18)]
    wanted = {min((s for s in seen if p <= s < 2 * p), default=None) for p in powers} - {None}
    assert names_of(tmp_path) == wanted | {seen[0], seen[-1]}
    assert len(names_of(tmp_path)) == 13
    assert all((tmp_path / name).exists() for name in others)
    assert len(list(tmp_path.glob("*_ema.png"))) == 13


def test_a_run_of_any_length_keeps_as_many_grids_as_its_length_has_digits(tiny, trainer_of):
    trainer = trainer_of(tiny())
    for trainer.images_seen in range(8, 300, 8):
        trainer.write_samples()
    assert names_of(trainer.run_folder / "samples") == {8, 16, 32, 64, 128, 256, 296}
