"""The model behind the page: previews, the finished pictures, neighbours, sizes and solvers."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from convflow.codecs import PixelCodec
from convflow.demo.request import Limits
from convflow.demo.studio import Studio, known_images, strips
from convflow.pipeline import Pipeline
from convflow.processes.process import create_process
from convflow.training.shown import ShownImages
from convflow.types import InputError
from tests.cases import build, build_pyramid


@pytest.fixture
def studio(pipe):
    found = Studio(pipe, "tiny")
    yield found
    found.close()


def made_by(studio, **numbers):
    request = studio.read([], studio.pipe.size, **{"num": 2, "seed": 0} | numbers)
    return list(studio.make(studio.samples(request), request.num))


def test_pictures_come_step_by_step_and_end_with_those_of_the_pipeline(studio):
    moments = made_by(studio, steps=20)
    assert [moment.step for moment in moments] == [3, 6, 9, 12, 15, 18, 20]
    assert {moment.of for moment in moments} == {20}
    assert moments[-1].pixels.equal(studio.pipe(num=2, steps=20).pixels)
    assert not moments[0].pixels.equal(moments[-1].pixels)
    assert not made_by(studio, seed=1)[-1].pixels.equal(made_by(studio)[-1].pixels)


def test_videos_are_refused():
    pipe = Pipeline(build("flowdcn-video"), PixelCodec(), (4, 8, 8))
    with pytest.raises(InputError, match="expected a model of images for the page, got clips of"):
        Studio(pipe, "clips")


def test_scales_show_the_end_of_each_stage():
    pipe = Pipeline(build_pyramid(), PixelCodec(), (8, 8), process=create_process("dfm"))
    studio = Studio(pipe, "scales")
    moments = made_by(studio, steps=10)
    assert [moment.step for moment in moments] == [2, 4, 6, 8, 10]
    assert made_by(studio, steps=7)[-2].step == 6
    assert {moment.pixels.shape for moment in moments} == {(2, 3, 8, 8)}
    studio.close()


def test_who_leaves_ends_the_work(studio, monkeypatch):
    request = studio.read([], (4, 6), num=2, seed=0, steps=250)
    calls, forward = [], studio.pipe.model.forward
    monkeypatch.setattr(
        studio.pipe.model, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k)
    )
    visit = studio.make(studio.samples(request), request.num)
    next(visit)
    visit.close()
    assert len(calls) < 200
    assert len(made_by(studio)) == 6


def test_closing_ends_the_work_of_those_who_stay(pipe):
    studio = Studio(pipe, "tiny")
    request = studio.read([], (4, 6), num=2, seed=0, steps=250)
    visit = studio.make(studio.samples(request), request.num)
    next(visit)
    studio.close()
    assert len(list(visit)) < 8
    names = {thread.name for thread in threading.enumerate()}
    assert not any(name.startswith("ThreadPoolExecutor") for name in names)


def test_an_error_of_the_network_reaches_the_visitor(studio, monkeypatch):
    monkeypatch.setattr(studio.pipe.model, "forward", lambda x, t, y: x * torch.nan)
    with pytest.raises(InputError, match="NaN or infinity for sample 0"):
        made_by(studio)
    monkeypatch.undo()
    assert made_by(studio)


def test_unknown_labels_and_sizes_are_refused(studio):
    for labels, size, message in [
        (["dgo"], (4, 6), "did you mean 'dog'"),
        ([], (5, 6), "multiples of 2"),
    ]:
        request = studio.read(labels, size, num=1, seed=0)
        with pytest.raises(InputError, match=message):
            studio.samples(request)


def test_solvers_and_sizes_to_choose_from_can_be_drawn(studio):
    solvers = studio.solvers
    assert solvers[0] == "heun"
    assert len(solvers) == len(set(solvers)) > 8
    assert not {"ddpm", "average", "searched", "dopri5"} & set(solvers)
    assert studio.sizes() == {
        "as trained": (4, 6), "wide": (4, 8), "tall": (6, 6), "panorama": (4, 12), "large": (8, 12)
    }  # fmt: skip
    for size in studio.sizes().values():
        studio.samples(studio.read([], size, num=1, seed=0))
    small = Studio(studio.pipe, "tiny", limits=Limits(side=6))
    assert small.sizes() == {"as trained": (4, 6), "tall": (6, 6)}
    small.close()


def test_sizes_that_are_typed_have_a_name_or_are_other(studio):
    typed = [(4, 6), (6.0, 6), (6, 8), (None, 6), (1.5, 6)]
    names = ["as trained", "tall", "other", "other", "other"]
    assert [studio.size_name(*size) for size in typed] == names


@pytest.mark.parametrize(("process", "solver"), [("ddpm", "ddim"), ("dfm", "euler")])
def test_solvers_fit_the_process(process, solver):
    model = build("flowdcn-learned-variance") if process == "ddpm" else build_pyramid()
    studio = Studio(Pipeline(model, PixelCodec(), (8, 8), process=create_process(process)), "x")
    assert solver in studio.solvers
    assert ("ddpm" in studio.solvers) == (process == "ddpm")
    studio.close()


def training_images(folder, count=5):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (count, 4, 6, 3), dtype=np.uint8)
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def test_the_nearest_training_image_is_found_mirrored_too(pipe, tmp_path):
    images = training_images(tmp_path / "data")
    studio = Studio(pipe, "tiny", data=str(tmp_path / "data"))
    assert studio.compares
    assert studio.num_compared() == 5
    near = torch.stack([images[2], images[4].flip(2)])
    near[0, 0, 0, 0] ^= 3
    looked_at, (first, second) = studio.nearest(near)
    assert looked_at == 5
    assert first.image.equal(images[2])
    assert 0 < first.distance < 1
    assert second.image.equal(images[4].flip(2))
    assert second.distance == 0
    studio.close()


def test_who_leaves_ends_the_search(pipe, tmp_path, monkeypatch):
    images = training_images(tmp_path / "data", 40)
    studio = Studio(pipe, "tiny", data=str(tmp_path / "data"))
    read, honest = [], ShownImages.read

    def slow(self, numbers):
        time.sleep(0.02)
        read.extend(numbers)
        return honest(self, numbers)

    monkeypatch.setattr(ShownImages, "read", slow)
    monkeypatch.setattr("convflow.evaluation.nearest.PART_BYTES", 1)  # one at a time
    search = studio.nearest(images[:1])
    assert next(search) == 1
    search.close()
    assert len(read) < 20
    studio.close()


def test_fewer_training_images_are_looked_at_where_they_are_large(pipe, tmp_path, monkeypatch):
    images = training_images(tmp_path / "data")
    studio = Studio(pipe, "tiny", data=str(tmp_path / "data"))
    assert studio.looks_at_all()
    monkeypatch.setattr("convflow.demo.studio.MOST_PIXELS", 4 * 4 * 6)
    assert [studio.num_compared(size) for size in [(4, 6), (8, 12), (40, 60)]] == [4, 1, 1]
    assert not studio.looks_at_all()
    *_, (found,) = studio.nearest(images[4:])
    assert found.distance > 0
    studio.close()


def test_images_that_are_not_there(pipe, tmp_path, tiny_run):
    assert not Studio(pipe, "tiny").compares
    with pytest.raises(InputError):
        Studio(pipe, "tiny", data=str(tmp_path / "nothing"))
    run = Studio(Pipeline.from_pretrained(tiny_run, device="cpu"), str(tiny_run))
    assert run.compares
    assert run.num_compared() == 1797


def test_strips_have_a_tile_for_each_moment(studio):
    moments = made_by(studio, steps=4)
    sheet = np.asarray(strips(moments))
    assert sheet.shape == (2 * (4 + 2) + 2, 4 * (6 + 2) + 2, 3)
    assert np.array_equal(sheet[-6:-2, -8:-2], moments[-1].pixels[1].permute(1, 2, 0))


def test_image_and_mask_as_the_model_sees_them(studio):
    mask = np.zeros((8, 12), np.uint8)
    mask[:4] = 255
    samples = studio.pipe.samples(image=Image.new("RGB", (12, 8), "red"), mask=mask)
    image, painted = known_images(samples)
    assert (image.size, painted.size) == ((6, 4), (6, 4))
    assert np.asarray(painted).tolist() == [[255] * 6] * 2 + [[0] * 6] * 2


def test_the_card_beside_the_model(model_folder, tmp_path):
    pipe = Pipeline.from_pretrained(model_folder, device="cpu")
    assert Studio(pipe, "tiny").card() is None
    pipe.folder = tmp_path
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(InputError, match="expected a result card"):
        Studio(pipe, "tiny").card()
