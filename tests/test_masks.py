"""Images and masks of inpainting: every form of them, and what becomes of the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from convflow.bench.models import perturb
from convflow.bundle.config import SamplingConfig
from convflow.codecs import LatentCodec, PixelCodec
from convflow.masks import read_known
from convflow.models.zoo import create_model
from convflow.pipeline import Pipeline
from convflow.processes.process import create_process
from convflow.samplers.solvers import create_solver
from convflow.types import InputError
from tests.cases import TINY, build, build_pyramid

SIZE = (4, 6)
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
MASK = np.zeros(SIZE, np.uint8)
MASK[1:3, 2:5] = 255
INSIDE = torch.from_numpy(MASK > 0)


@pytest.fixture
def pipe():
    sampling = SamplingConfig(create_solver("heun", steps=3), 1.5)
    return Pipeline(build("flowdcn"), PixelCodec(), SIZE, sampling=sampling)


def test_known_pixels_come_back_and_the_rest_is_drawn(pipe):
    made = pipe(num=3, image=IMAGE, mask=MASK, seed=2)
    given = torch.from_numpy(IMAGE).permute(2, 0, 1)
    for pixels in made.pixels:
        assert pixels[:, ~INSIDE].equal(given[:, ~INSIDE])
    assert not made.pixels[0][:, INSIDE].equal(made.pixels[1][:, INSIDE])


@pytest.mark.parametrize("zoom", [1, 8], ids=["pixels", "latents"])
def test_what_lies_under_the_mask_plays_no_part(pipe, zoom, request):
    if zoom == 8:
        codec = LatentCodec(autoencoder=request.getfixturevalue("autoencoder")).open()
        model = create_model("flowdcn", **TINY | {"in_channels": 4})
        pipe = Pipeline(perturb(model.eval()), codec, (32, 48), sampling=pipe.sampling)
    square = np.ones((zoom, zoom), np.uint8)
    image, mask = np.kron(IMAGE, square[:, :, None]), np.kron(MASK, square)
    mask[: zoom // 2] = 255  # parts of cells too
    other, moved, inside = image.copy(), image.copy(), torch.from_numpy(mask > 0)
    other[mask > 0] = 0
    moved[mask == 0] ^= 255
    first, second, third = (pipe(num=2, image=i, mask=mask).pixels for i in (image, other, moved))
    assert first.equal(second)
    assert not third[..., inside].equal(first[..., inside])


def test_with_nothing_known_it_is_a_new_image(pipe):
    white = np.full(SIZE, 255, np.uint8)
    assert pipe(num=2, image=IMAGE, mask=white).pixels.equal(pipe(num=2).pixels)


def test_previews_show_the_known_part_too(pipe):
    samples, seen = pipe.samples(image=IMAGE, mask=MASK), []
    samples.read([0], watch=lambda step, of, x: seen.append(samples.show(x)))
    given = torch.from_numpy(IMAGE).permute(2, 0, 1)
    assert all(pixels[0][:, ~INSIDE].equal(given[:, ~INSIDE]) for pixels in seen)
    assert "known" in samples.describe()
    assert "known" not in pipe.samples().describe()


def forms(folder):
    """The same image and mask in every form."""
    Image.fromarray(IMAGE).save(folder / "image.png")
    Image.fromarray(MASK).convert("RGB").save(folder / "mask.png")
    return [
        (Image.fromarray(IMAGE), Image.fromarray(MASK)),
        (folder / "image.png", str(folder / "mask.png")),
        (IMAGE, MASK > 0),
        (np.dstack([IMAGE, np.full(SIZE, 255, np.uint8)]), MASK[:, :, None]),
        (IMAGE / 255, MASK / 255),
    ]


def test_every_form_means_the_same(tmp_path):
    for image, mask in forms(tmp_path):
        known = read_known(image, mask, SIZE, 3, PixelCodec())
        assert known.pixels[0].permute(1, 2, 0).numpy().tolist() == IMAGE.tolist()
        assert known.kept[0, 0].equal(~INSIDE)
        own = PixelCodec().encode(known.pixels)
        assert known.data[..., ~INSIDE].equal(own[..., ~INSIDE])
        assert bool((known.data[..., INSIDE] == 1).all())
        assert known.cells.equal(known.kept)
    assert read_known(IMAGE, MASK, SIZE, 1, PixelCodec()).pixels.shape == (1, 1, *SIZE)


def test_larger_ones_are_brought_to_the_size():
    image, mask = (np.kron(a, np.ones((4, 4, 1), np.uint8)) for a in (IMAGE, MASK[:, :, None]))
    wide = [np.pad(a, ((0, 0), (8, 8), (0, 0))) for a in (image, mask)]
    known = read_known(*wide, SIZE, 3, PixelCodec())
    assert known.pixels[0].permute(1, 2, 0).numpy().tolist() == IMAGE.tolist()
    assert known.kept[0, 0].equal(~INSIDE)


def test_a_cell_of_latents_is_known_where_all_its_pixels_are(autoencoder):
    codec = LatentCodec(autoencoder=autoencoder).open()
    image = RNG.integers(0, 256, (16, 24, 3), dtype=np.uint8)
    mask = np.zeros((16, 24), bool)
    mask[7, 8:17] = True
    known = read_known(image, mask, (16, 24), 4, codec)
    assert known.cells[0, 0].tolist() == [[True, False, False], [True, True, True]]
    assert known.data.shape == (1, 4, 2, 3)


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (IMAGE, None, "expected an image and a mask together, got one"),
        (None, MASK, "expected an image and a mask together, got one"),
        (IMAGE, MASK[:3], "expected a mask of 4x6 .* got 3x6"),
        (IMAGE, MASK * 0, "white somewhere, got none"),
        ("nothing.png", MASK, "image: nothing.png: No such file"),
        (__file__, MASK, "image: .*no image can be read there"),
        (IMAGE, np.zeros((4, 6, 5), np.uint8), "mask: expected an image, got one that cannot"),
        (IMAGE * 2.0, MASK, r"image: expected float pixels in \[0, 1\]"),
    ],
)
def test_what_is_no_image_is_refused(image, mask, message):
    with pytest.raises(InputError, match=message):
        read_known(image, mask, SIZE, 3, PixelCodec())


def test_a_model_of_scales_refuses():
    scales = Pipeline(build_pyramid(), PixelCodec(), (8, 8), process=create_process("dfm"))
    image, mask = np.zeros((8, 8, 3), np.uint8), np.full((8, 8), 255, np.uint8)
    with pytest.raises(InputError, match="to draw a part of an image anew, got dfm"):
        scales(image=image, mask=mask)
