"""Pixels to [-1, 1] and back; latents as diffusers gives them, scaled."""

from __future__ import annotations

import json
import math
import sys

import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL

from convflow import codecs
from convflow.autoencoders import SD_SCALE
from convflow.codecs import Codec, LatentCodec, PixelCodec, image_channels
from convflow.settings.read import read, to_dict
from convflow.types import InputError
from tests.autoencoder import save_autoencoder
from tests.cases import CODECS
from tests.tolerance import assert_close_rms

LEVELS = torch.arange(256, dtype=torch.uint8).view(2, 2, 8, 8)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_all_levels_come_back(codec):
    assert codec.decode(codec.encode(LEVELS)).equal(LEVELS)


def test_pixels_fill_the_interval():
    x = CODECS["pixel"].encode(LEVELS).flatten()
    assert x.dtype == torch.float32
    assert (x[0], x[-1]) == (-1, 1)
    torch.testing.assert_close(x.diff(), torch.full((255,), 2 / 255), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_levels_survive_other_dtypes(dtype):
    codec = CODECS["pixel"]
    assert codec.decode(codec.encode(LEVELS).to(dtype)).equal(LEVELS)


@pytest.mark.parametrize(
    ("value", "level"),
    [
        (-1.5, 0),
        (1.5, 255),
        (1e38, 255),
        (-1e38, 0),
        (math.inf, 255),
        (-math.inf, 0),
        (math.nan, 0),
        (0.0, 128),  # 127.5, to even
        (0.49 / 127.5, 128),
        (-0.51 / 127.5, 127),
    ],
)
def test_values_are_clamped_and_rounded(value, level):
    out = CODECS["pixel"].decode(torch.full((1, 1, 1, 1), value))
    assert (out.item(), out.dtype) == (level, torch.uint8)


def random_images(count=3, height=32, width=48):
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def latent(autoencoder):
    return LatentCodec(autoencoder, scale=0.5, shift=0.25)


def test_both_kinds_are_codecs(latent):
    assert isinstance(latent, Codec)
    assert isinstance(PixelCodec(), Codec)
    assert (PixelCodec().factor, latent.factor) == (1, 8)
    assert [PixelCodec().channels(n) for n in (1, 3)] == [1, 3]
    assert latent.channels(3) == 4
    assert [image_channels(PixelCodec(), n) for n in (1, 3, 4)] == [1, 3, None]
    assert [image_channels(latent, n) for n in (1, 3, 4)] == [None, None, 3]


@pytest.mark.parametrize("size", [(32, 48), (8, 16), (72, 8)])
def test_latents_are_those_of_diffusers(latent, autoencoder, size):
    plain = AutoencoderKL.from_pretrained(autoencoder, low_cpu_mem_usage=False).eval()
    images = random_images(3, *size)
    with torch.no_grad():
        posterior = plain.encode(images.float() / 127.5 - 1).latent_dist
        drawn, mean = (posterior.sample(seeded()) - 0.25) * 0.5, (posterior.mean - 0.25) * 0.5
        x = latent.encode(images, seeded())
        assert_close_rms(x, drawn)
        assert_close_rms(latent.encode(images), mean)
        assert x.shape == (3, 4, size[0] // 8, size[1] // 8)
        assert (x - mean).std() > 0.1, "nothing was drawn"
        back = plain.decode(x / 0.5 + 0.25).sample
    levels = (back * 127.5 + 127.5).clamp(0, 255)
    out = latent.decode(x)
    assert (out.dtype, out.shape) == (torch.uint8, images.shape)
    assert (out.float() - levels).abs().max() <= 0.51
    assert not out.requires_grad


def test_the_noise_of_the_latents_is_standard_normal(latent):
    images = random_images(1).expand(64, -1, -1, -1)
    posterior = latent.network.encode(images[:1].float() / 127.5 - 1).latent_dist
    x = (latent.encode(images, seeded()) / 0.5 + 0.25 - posterior.mean) / posterior.std
    assert abs(float(x.mean())) < 0.05
    assert abs(float(x.std()) - 1) < 0.05


def test_a_latent_is_a_function_of_the_generator_s_state(latent):
    images, generator = random_images(), seeded()
    first, second = (latent.encode(images, generator) for _ in range(2))
    assert first.equal(latent.encode(images, seeded()))
    assert not first.equal(second)
    noise = latent.draw(first.shape, seeded())
    assert latent.encode(images, noise=noise).equal(first)
    assert PixelCodec().draw((2, 3, 4, 4), seeded()) is None


def test_chunks_change_nothing_but_memory(latent, monkeypatch):
    images = random_images(5)
    x = latent.encode(images, seeded())
    out = latent.decode(x)
    seen = []
    encode, decode = latent.network.encode, latent.network.decode
    monkeypatch.setattr(
        latent.network, "encode", lambda part: seen.append(len(part)) or encode(part)
    )
    monkeypatch.setattr(
        latent.network, "decode", lambda part: seen.append(len(part)) or decode(part)
    )
    monkeypatch.setattr(codecs, "CHUNK_PIXELS", 2 * 32 * 48)
    assert_close_rms(latent.encode(images, seeded()), x)
    assert (latent.decode(x).int() - out.int()).abs().max() <= 1
    assert seen == [2, 2, 1, 2, 2, 1]


def test_latents_in_float64_are_decoded_too(latent):
    x = latent.encode(random_images(), seeded())
    assert (latent.decode(x.double()).int() - latent.decode(x).int()).abs().max() <= 1
    assert latent.decode(torch.full((1, 4, 2, 2), math.nan)).eq(0).all()


def test_the_autoencoder_is_frozen_and_can_be_made_again(latent):
    assert not any(p.requires_grad for p in latent.network.parameters())
    assert not latent.network.training
    again = read(to_dict(latent), Codec)
    assert again == latent
    assert again.encode(random_images(), seeded()).equal(latent.encode(random_images(), seeded()))
    assert read({}, Codec) == PixelCodec()


def test_what_does_not_fit_an_autoencoder_is_refused(latent):
    with pytest.raises(InputError, match=r"--data.channels: expected 3 .* got 1; set it to 3"):
        latent.channels(1)
    with pytest.raises(InputError, match="multiples of 8, got 32x44"):
        latent.encode(random_images(width=44))
    with pytest.raises(InputError, match="expected grey or colour images, got 4 channels"):
        PixelCodec().channels(4)


def test_kinds_and_settings_that_do_not_exist_are_refused():
    with pytest.raises(InputError, match=r"unknown codec 'latents'; did you mean 'latent'"):
        read({"kind": "latents"}, Codec)
    with pytest.raises(InputError, match="pixel has no scale; leave it out, or choose latent"):
        read({"kind": "pixel", "scale": 0.18215}, Codec)


OTHER = {"latent_channels": 16, "block_out_channels": [8] * 5, "scaling_factor": 0.5}


@pytest.mark.parametrize(
    ("config", "given", "expected"),
    [
        ({}, {"scale": 0.5}, (4, 1, 0.5, 0.0)),
        (OTHER, {}, (16, 16, 0.5, 0.0)),
        (OTHER | {"shift_factor": 0.25}, {}, (16, 16, 0.5, 0.25)),
        (OTHER | {"shift_factor": 0.25}, {"scale": 2.0, "shift": 0.0}, (16, 16, 2.0, 0.0)),
    ],
)
def test_the_shape_of_latents_is_known_from_config_json_alone(tmp_path, config, given, expected):
    (tmp_path / "config.json").write_text(json.dumps(config))
    codec = LatentCodec(str(tmp_path), **given)
    assert (codec.channels(3), codec.factor, *codec.constants) == expected
    assert read(to_dict(codec), Codec) == codec


def test_the_constants_of_a_loaded_autoencoder_are_its_own(tmp_path):
    folder = save_autoencoder(tmp_path / "vae")
    path = tmp_path / "vae/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scaling_factor": 0.5}))
    assert LatentCodec(folder).open().scale == 0.5
    path.write_text('{"block_out_channels": 8}')
    with pytest.raises(InputError, match=r"expected an autoencoder of diffusers, .*--codec"):
        LatentCodec(folder).factor  # noqa: B018


def test_sd_is_known_without_its_files(monkeypatch):
    monkeypatch.setattr("convflow.hub.download", lambda *_: pytest.fail("downloaded"))
    codec = read({"kind": "latent"}, Codec)
    assert (codec.factor, codec.channels(3), *codec.constants) == (8, 4, SD_SCALE, 0.0)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match=r"needs the package diffusers.*pip install 'convflow"):
        LatentCodec().open()  # of Stable Diffusion, whose config.json need not be read


def test_autoencoders_that_cannot_be_had_are_refused(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no network\nat all")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    for name, words in (("who/what", "repository"), (str(tmp_path / "no"), "nothing")):
        with pytest.raises(InputError, match=f"found .*{words}.*expected an autoencoder") as e:
            LatentCodec(name).open()
        assert "\n" not in str(e.value)
    with pytest.raises(InputError, match="expected an autoencoder"):
        LatentCodec(str(tmp_path)).open()


def test_an_autoencoder_without_all_its_weights_is_refused(tmp_path):
    folder = save_autoencoder(tmp_path / "damaged")
    path = tmp_path / "damaged/diffusion_pytorch_model.safetensors"
    weights = safetensors.torch.load_file(path)
    del weights["decoder.conv_in.weight"]
    safetensors.torch.save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"without decoder\.conv_in\.weight"):
        LatentCodec(folder).open()
