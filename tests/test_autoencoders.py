"""Autoencoders of every class give the latents and the images that diffusers' own calls give."""

import json
import shutil

import pytest
import torch

from convflow.autoencoders import AUTOENCODERS, KINDS, SD_SCALE, LatentSpace
from convflow.codecs import Codec, LatentCodec
from convflow.settings.read import read, to_dict
from convflow.training.config import TrainConfig
from convflow.training.overrides import override
from convflow.types import InputError
from tests.autoencoder import TINY, save_tiny
from tests.tolerance import assert_close_rms

SIZE = (32, 32)


def expected(kind, model, images):
    """Mean and image of a model's latents, by diffusers' calls and its pipelines' constants."""
    x = images.float() / 127.5 - 1
    if kind in ("AutoencoderKLQwenImage", "AutoencoderKLWan"):
        mean, std = (
            torch.tensor(getattr(model.config, name)).view(1, -1, 1, 1, 1)
            for name in ("latents_mean", "latents_std")
        )
        z = model.encode(x.unsqueeze(2)).latent_dist.mode()
        return ((z - mean) / std)[:, :, 0], model.decode(z).sample[:, :, 0]
    if kind == "AutoencoderKLFlux2":
        z = model.encode(x).latent_dist.mode()
        b, c, h, w = z.shape
        packed = z.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
        packed = packed.reshape(b, c * 4, h // 2, w // 2)
        return model.bn(packed), model.decode(z).sample
    if kind == "AutoencoderKL":
        z = model.encode(x).latent_dist.mode()
        return (z - 0.1159) * 0.3611, model.decode(z).sample
    if kind == "AutoencoderKLCogVideoX":
        z = model.encode(x.unsqueeze(2)).latent_dist.mode()
        return (z * 0.7)[:, :, 0], model.decode(z).sample[:, :, 0]
    if kind == "AutoencoderDC":
        z = model.encode(x).latent
        return z * 0.41407, model.decode(z).sample
    if kind == "AutoencoderKLHunyuanImage":
        z = model.encode(x).latent_dist.mode()
        return z * 0.75289, model.decode(z).sample
    if kind == "AutoencoderRAE":
        z = model.encode(images.float() / 255).latent
        return z, model.decode(z).sample * 2 - 1
    z = model.encode(x).latents
    return z, model.decode(z).sample


def test_every_class_has_a_tiny_one():
    assert sorted(TINY) == sorted(KINDS)
    # no representation autoencoder in the layout of diffusers has a name that is known here
    named = set(KINDS) - {"AutoencoderRAE", "AutoencoderKLHunyuanImage"}
    assert {space.kind for space in AUTOENCODERS.values()} == named


@pytest.mark.parametrize("kind", KINDS)
def test_latents_and_images_are_those_of_diffusers(kind, tmp_path):
    if kind == "AutoencoderRAE":
        pytest.importorskip("transformers")
    model = save_tiny(kind, tmp_path / "vae")
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8, generator=generator)
    codec = LatentCodec(str(tmp_path / "vae")).open()
    with torch.no_grad():
        latents, image = expected(kind, model, images)
    ours = codec.encode(images)
    assert ours.shape == (2, codec.channels(3), *(side // codec.factor for side in SIZE))
    assert_close_rms(ours, latents)
    levels = (image * 127.5 + 127.5).clamp(0, 255)
    assert (codec.decode(ours).float() - levels).abs().max() <= 0.51
    noise = codec.draw(ours.shape, generator)
    moments = codec.moments(images)
    assert codec.from_moments(moments, noise).equal(codec.encode(images, noise=noise))
    assert codec.latents(moments, noise).equal(codec.latents(images, noise))
    draws = moments.shape[1] == 2
    assert codec.encode(images, noise=noise).equal(ours) is not draws
    assert read(json.loads(json.dumps(to_dict(codec))), Codec) == codec


def test_a_representation_autoencoder_takes_one_size(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderRAE"}')
    codec = LatentCodec(str(tmp_path))
    assert (codec.channels(3), codec.factor, *codec.constants) == (768, 16, 1.0, 0.0)
    with pytest.raises(InputError, match=r"expected images of 256x256, .* got 128x256; choose"):
        codec.check_size((128, 256))
    monkeypatch.setattr("convflow.autoencoders.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"needs the package transformers, .*; pip install"):
        codec.open()


def test_flux2_keeps_its_constants_in_half_precision(tmp_path):
    save_tiny("AutoencoderKLFlux2", tmp_path / "vae")
    whole, half = (
        LatentCodec(str(tmp_path / "vae"), precision=name).prepare().constants
        for name in ("float32", "bfloat16")
    )
    assert whole == half


def test_half_precision_and_tiles_come_near(tmp_path):
    save_tiny("AutoencoderKL", tmp_path / "vae")
    images = torch.randint(0, 256, (1, 3, 32, 64), dtype=torch.uint8)
    plain = LatentCodec(str(tmp_path / "vae"))
    half = LatentCodec(str(tmp_path / "vae"), precision="bfloat16")
    tiled = LatentCodec(str(tmp_path / "vae"), tiling=True)
    tiled.network.tile_sample_min_size, tiled.network.tile_latent_min_size = 32, 4
    x = plain.encode(images)
    assert half.encode(images).dtype == torch.float32
    assert (half.encode(images) - x).std() < 0.1 * x.std()
    assert (half.decode(x).float() - plain.decode(x).float()).abs().mean() < 3
    assert tiled.encode(images).shape == x.shape
    assert not tiled.encode(images).equal(x)


def test_the_constants_are_never_those_of_another_autoencoder(tmp_path):
    save_tiny("AutoencoderKL", tmp_path / "flux")
    path = tmp_path / "flux/config.json"
    known = json.loads(path.read_text())
    for broken in ({**known, "scaling_factor": SD_SCALE}, {"latent_channels": 16}):
        path.write_text(json.dumps(broken))
        with pytest.raises(InputError, match=r"--codec.scale: expected the scaling_factor of"):
            LatentCodec(str(tmp_path / "flux")).open()
    path.write_text(json.dumps(known))
    begun = TrainConfig(codec=LatentCodec("some/other", 0.18215, 0.0))
    codec = override(begun, ["--codec.autoencoder", str(tmp_path / "flux")]).codec
    assert codec.prepare().constants == (0.3611, 0.1159)


def test_each_channel_may_have_its_own_constants(tmp_path):
    save_tiny("AutoencoderTiny", tmp_path / "vae")
    words = ["--codec.autoencoder", str(tmp_path / "vae"), "--codec.scale", "1,2,3,4"]
    codec = override(TrainConfig(codec=LatentCodec()), words).codec
    assert codec.scale == (1.0, 2.0, 3.0, 4.0)
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    plain = LatentCodec(str(tmp_path / "vae")).encode(images)
    assert_close_rms(codec.encode(images), plain * torch.arange(1.0, 5).view(4, 1, 1))
    wrong = LatentCodec(str(tmp_path / "vae"), scale=(1.0, 2.0))
    with pytest.raises(InputError, match="one for each of 4 channels, got 2"):
        wrong.open()


def test_published_ones_are_known_by_repository_and_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("convflow.hub.download", lambda *_: pytest.fail("downloaded"))
    flux = LatentCodec("black-forest-labs/FLUX.1-schnell")
    assert (flux.channels(3), flux.factor, *flux.constants) == (16, 8, 0.3611, 0.1159)
    assert LatentCodec("black-forest-labs/FLUX.2-dev/vae").space.patch == 2
    asked = []

    def download(name, patterns, wanted):
        asked.append((name, patterns))
        return tmp_path

    monkeypatch.setattr("convflow.hub.download", download)
    save_tiny("AutoencoderTiny", tmp_path / "vae")
    assert LatentCodec("who/what/vae").channels(3) == 4
    assert asked == [("who/what", ["vae/config.json"])]
    assert LatentCodec(str(tmp_path)).channels(3) == 4  # a folder of a whole pipeline
    shutil.copy(tmp_path / "vae/config.json", tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "VQModel"}')
    with pytest.raises(InputError, match="unknown class of autoencoders 'VQModel'"):
        LatentCodec(str(tmp_path)).space  # noqa: B018
    assert isinstance(flux.space, LatentSpace)


VIDEO_KINDS = ("AutoencoderKLWan", "AutoencoderKLQwenImage", "AutoencoderKLCogVideoX")


def made_videos(frames: int, size: tuple[int, int] = SIZE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, frames, *size), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("kind", "frames"),
    [
        ("AutoencoderKLWan", 5),
        ("AutoencoderKLWan", 9),
        ("AutoencoderKLQwenImage", 5),
        ("AutoencoderKLCogVideoX", 1),
        ("AutoencoderKLCogVideoX", 9),
        ("AutoencoderKLCogVideoX", 17),
    ],
)
def test_videos_are_those_of_diffusers(kind, frames, tmp_path):
    model, videos = save_tiny(kind, tmp_path / "vae"), made_videos(frames)
    codec = LatentCodec(str(tmp_path / "vae")).open()
    assert codec.frame_factor == 4
    ours = codec.encode(videos)
    assert ours.shape[2:] == codec.cells((frames, *SIZE)) == ((frames - 1) // 4 + 1, 4, 4)
    config = model.config
    mean, std = 0.0, 1 / 0.7
    if kind != "AutoencoderKLCogVideoX":
        numbers = (config.latents_mean, config.latents_std)
        mean, std = (torch.tensor(each).view(1, -1, 1, 1, 1) for each in numbers)
    with torch.no_grad():
        z = model.encode(videos.float() / 127.5 - 1).latent_dist.mode()
        assert_close_rms(ours, (z - mean) / std)
        levels = (model.decode(z).sample * 127.5 + 127.5).clamp(0, 255)
    decoded = codec.decode(ours)
    assert decoded.shape == videos.shape
    assert (decoded.float() - levels).abs().max() <= 0.51
    noise = codec.draw(ours.shape, torch.Generator().manual_seed(0))
    moments = codec.moments(videos)
    assert moments.shape == (2, 2, *ours.shape[1:])
    assert codec.latents(moments, noise).equal(codec.latents(videos, noise))


@pytest.mark.parametrize("kind", VIDEO_KINDS)
def test_a_picture_is_a_video_of_one_frame(kind, tmp_path):
    save_tiny(kind, tmp_path / "vae")
    codec, videos = LatentCodec(str(tmp_path / "vae")).open(), made_videos(1)
    latents = codec.encode(videos)
    assert_close_rms(codec.encode(videos[:, :, 0]), latents[:, :, 0])
    assert codec.decode(latents)[:, :, 0].equal(codec.decode(latents[:, :, 0]))


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderKLFlux2", "AutoencoderTiny"])
def test_an_autoencoder_of_pictures_takes_frames_one_by_one(kind, tmp_path):
    save_tiny(kind, tmp_path / "vae")
    codec, videos = LatentCodec(str(tmp_path / "vae")).open(), made_videos(3)
    latents = codec.encode(videos)
    assert latents.shape[2:] == codec.cells((3, *SIZE))
    each = torch.stack([codec.encode(videos[:, :, i]) for i in range(3)], 2)
    assert_close_rms(latents, each)
    decoded = codec.decode(latents)
    assert decoded.shape == videos.shape
    again = torch.stack([codec.decode(latents[:, :, i]) for i in range(3)], 2)
    assert (decoded.int() - again.int()).abs().max() <= 1


def test_videos_are_decoded_one_by_one(tmp_path, monkeypatch):
    from convflow import autoencoders, codecs

    save_tiny("AutoencoderKLWan", tmp_path / "vae")
    codec, videos = LatentCodec(str(tmp_path / "vae")).open(), made_videos(5)
    latents, seen = codec.encode(videos), []
    whole, decode = codec.decode(latents), autoencoders.decode
    monkeypatch.setattr(codecs, "CHUNK_PIXELS", 5 * 32 * 32)
    monkeypatch.setattr(
        autoencoders, "decode", lambda *args: seen.append(len(args[2])) or decode(*args)
    )
    assert (codec.decode(latents).int() - whole.int()).abs().max() <= 1
    assert seen == [1, 1]
    assert_close_rms(codec.encode(videos), latents)


@pytest.mark.parametrize(("frames", "near"), [(16, 17), (2, 1), (8, 9)])
def test_other_numbers_of_frames_are_refused(frames, near, tmp_path):
    save_tiny("AutoencoderKLWan", tmp_path / "vae")
    codec = LatentCodec(str(tmp_path / "vae"))
    with pytest.raises(InputError, match=rf"4 frames and one more.* {frames}x32x32; choose {near}"):
        codec.check_size((frames, *SIZE))
    with pytest.raises(InputError, match="multiple of 4 frames and one more"):
        codec.moments(made_videos(frames))
    codec.check_size((17, *SIZE))


def test_cogvideox_takes_an_odd_number_of_cells(tmp_path):
    save_tiny("AutoencoderKLCogVideoX", tmp_path / "vae")
    codec = LatentCodec(str(tmp_path / "vae"))
    with pytest.raises(InputError, match=r"multiple of 8 frames and one more.* choose 17 frames"):
        codec.check_size((13, *SIZE))
    codec.check_size((9, *SIZE))
