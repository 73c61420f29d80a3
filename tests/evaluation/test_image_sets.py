"""Sets of images: sources at one size, samples files of the ADM suite, and what is refused."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from convflow.data.images import resize_and_crop
from convflow.data.sources import open_source
from convflow.evaluation.image_sets import (
    NpzImages,
    SourceImages,
    choose_indices,
    open_image_set,
    write_samples,
)
from convflow.types import InputError


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (7, 6, 10, 3), np.uint8)


@pytest.fixture
def folder(pixels, tmp_path):
    for i, picture in enumerate(pixels):
        (tmp_path / "data").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "data" / f"{i}.png")
    return tmp_path / "data"


def nchw(pixels):
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def test_a_folder_as_it_is(folder, pixels):
    images, described = open_image_set(str(folder)), []
    assert (len(images), images.size, images.channels) == (7, (6, 10), 3)
    assert images.read([5, 0, 2], described.append).equal(nchw(pixels[[5, 0, 2]]))
    assert sum(described) == 3
    about = images.describe()
    assert (about["name"], about["selection"], about["resize"]) == ("data", "all", "none")


def test_a_folder_brought_to_a_rectangle(folder, pixels):
    images = open_image_set(str(folder), size=(3, 4))
    expected = resize_and_crop(pixels[6], (3, 4))
    assert np.array_equal(images.read([6])[0].permute(1, 2, 0).numpy(), expected)
    assert "bicubic" in images.describe()["resize"]


def test_grey_pictures(folder):
    assert open_image_set(str(folder), channels=1).read([0]).shape == (1, 1, 6, 10)


def test_a_draw_is_repeatable_and_told(folder):
    images = open_image_set(str(folder), num=3, seed=1)
    again = open_image_set(str(folder), num=3, seed=1)
    assert images.read(range(3)).equal(again.read(range(3)))
    assert images.describe()["selection"] == "3 of 7, drawn with seed 1"


def test_another_size_is_named(folder):
    Image.new("RGB", (10, 5)).save(folder / "9.png")
    images = open_image_set(str(folder))
    with pytest.raises(InputError, match=r"9\.png: expected 6x10 like the first image, got 5x10"):
        images.read(range(8))


def test_an_unreadable_picture_is_named(folder):
    (folder / "9.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"data, 9\.png: expected a readable image.*repair"):
        open_image_set(str(folder)).read(range(8))


def test_more_than_there_are(folder):
    with pytest.raises(InputError, match=r"expected at least 8 images in .*data, got 7"):
        open_image_set(str(folder), num=8)


def test_samples_are_written_as_the_adm_suite_does(tmp_path, pixels):
    path = tmp_path / "deep/samples.npz"
    write_samples(path, iter([nchw(pixels[:4]), nchw(pixels[4:])]), 7)
    with np.load(path, allow_pickle=False) as file:
        assert file.files == ["arr_0"]
        assert file["arr_0"].dtype == np.uint8
        assert np.array_equal(file["arr_0"], pixels)
    images = open_image_set(str(path))
    assert isinstance(images, NpzImages)
    assert isinstance(images._pixels, np.memmap)
    assert images.read([6, 1]).equal(nchw(pixels[[6, 1]]))
    assert images.describe()["name"] == "samples.npz"


def test_grey_samples_get_three_channels(tmp_path, pixels):
    write_samples(tmp_path / "a.npz", [nchw(pixels[..., :1])], 7)
    assert np.array_equal(np.load(tmp_path / "a.npz")["arr_0"], pixels[..., :1].repeat(3, axis=3))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_files_of_numpy_itself(tmp_path, pixels, save):
    save(tmp_path / "a.npz", arr_0=pixels, mu=np.zeros(3))
    images = NpzImages(tmp_path / "a.npz")
    assert images.read(range(7)).equal(nchw(pixels))
    few = NpzImages(tmp_path / "a.npz", most=3)
    assert len(few) == 3
    assert len(NpzImages(tmp_path / "a.npz", most=30)) == 7


def test_a_failed_write_leaves_nothing(tmp_path, pixels):
    def broken():
        yield nchw(pixels[:4])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_samples(tmp_path / "a.npz", broken(), 7)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"arr_0": np.zeros((2, 4, 4, 3), np.float32)}, r"uint8 images .*got float32"),
        ({"arr_0": np.zeros((2, 4, 4), np.uint8)}, r"\(N, height, width, 1 or 3\)"),
        ({"arr_0": np.zeros((0, 4, 4, 3), np.uint8)}, r"\(0, 4, 4, 3\)"),
        ({"arr_0": np.zeros((2, 3, 4, 4), np.uint8)}, r"\(2, 3, 4, 4\)"),
        ({"arr_1": np.zeros(3)}, "expected the images arr_0 in .*got arr_1"),
        ({"arr_0": np.array([{}])}, r"of object"),
    ],
)
def test_other_arrays_are_refused(tmp_path, content, message):
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(InputError, match=message):
        NpzImages(tmp_path / "a.npz")


def test_damaged_and_missing_files(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK half a file")
    with pytest.raises(InputError, match=r"damaged or no \.npz"):
        NpzImages(tmp_path / "a.npz")
    with pytest.raises(InputError, match="no such file"):
        NpzImages(tmp_path / "b.npz")


def test_an_npz_keeps_its_size(tmp_path, pixels):
    write_samples(tmp_path / "a.npz", [nchw(pixels)], 7)
    with pytest.raises(InputError, match=r"expected images of 8x8 .*got 6x10"):
        open_image_set(str(tmp_path / "a.npz"), size=(8, 8))


def test_choosing():
    assert choose_indices(5, 5, 0, "x").tolist() == [0, 1, 2, 3, 4]
    few = choose_indices(1000, 100, 3, "x")
    assert len(set(few.tolist())) == 100
    assert (np.diff(few) > 0).all()
    assert few.max() > 900
    assert not np.array_equal(few, choose_indices(1000, 100, 4, "x"))


def test_the_digits():
    images = SourceImages(open_source("digits"), channels=1)
    assert (len(images), images.size) == (1797, (8, 8))


def test_shapes_are_drawn_at_the_wanted_size():
    images = open_image_set("shapes", split="test", size=(40, 24), num=5, seed=1)
    wanted = open_source("shapes", split="test").draw(int(images._indices[3]), (40, 24))
    assert np.array_equal(images.read([3])[0].permute(1, 2, 0).numpy(), np.asarray(wanted))
    about = images.describe()
    assert (about["resize"], about["size"]) == ("none: drawn at this size", [40, 24])
    plain = open_image_set("shapes")
    assert (len(plain), plain.size, plain.describe()["resize"]) == (50_000, (32, 32), "none")


def test_what_was_understood_is_logged_and_labels_are_of_no_matter(tmp_path, pixels, caplog):
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(pixels[0]).save(tmp_path / split / name / "0.png")
    (tmp_path / "train/metadata.csv").write_text("damaged, and not about labels")
    with caplog.at_level("INFO", logger="convflow"):
        assert len(open_image_set(str(tmp_path), split="test")) == 2
    said = [record.message.removeprefix(f"{tmp_path}: ") for record in caplog.records]
    assert said == ["split test of train, test", "1 file is not read: 1 csv"]


def test_the_column_of_pictures_is_named(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    cells = {}
    for name, level in (("before", 1), ("after", 2)):
        buffer = BytesIO()
        Image.new("L", (4, 4), level).save(buffer, "PNG")
        cells[name] = [buffer.getvalue()]
    parquet.write_table(pa.table(cells), tmp_path / "x.parquet")
    for file in ("flat/0.png", "mixed/train/0.png", "mixed/other/0.png"):
        (tmp_path / file).parent.mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / file)
    for path, column in (("x.parquet", ""), ("x.parquet", "befor"), ("flat", "x"), ("mixed", "")):
        with pytest.raises(InputError) as caught:
            open_image_set(str(tmp_path / path), image_column=column)
        assert "--" not in str(caught.value)  # of options of training
    found = open_image_set(str(tmp_path / "x.parquet"), image_column="after", channels=1)
    assert found.read([0]).unique().tolist() == [2]
