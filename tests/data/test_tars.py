"""Images in tars: shards and packed folders, and what is wrong with them."""

import json
import tarfile

import pytest

from convflow.data.sources import open_source
from convflow.types import InputError
from tests.data.made import labelled, levels, png, refuse, tar


def write_shards(folder, labels=("cat", "dog", "cat", "emu"), each=2):
    for start in range(0, len(labels), each):
        files = {}
        for i in range(start, min(start + each, len(labels))):
            files |= {f"a{i}_png": png(i), f"a{i}_cls": labels[i].encode(), f"a{i}_txt": b"words"}
        tar(folder / f"x-{start // each:03}.tar", **files)
    return folder


def test_shards(tmp_path):
    source = open_source(str(write_shards(tmp_path)))
    assert labelled(source) == {"a0.png": "cat", "a1.png": "dog", "a2.png": "cat", "a3.png": "emu"}
    assert levels(source) == [0, 1, 2, 3]
    assert (
        source.notes[0]
        == f"labels from column `label` of {tmp_path.name}: 3 classes, cat, dog, emu"
    )
    part = open_source(str(tmp_path / "x-{000..000}.tar"))
    assert labelled(part) == {"a0.png": "cat", "a1.png": "dog"}
    assert open_source(str(tmp_path / "x-001.tar"), labels="none").class_names == ()
    assert source.stamp().text != part.stamp().text


def test_names_that_come_back_are_told_apart_by_the_tar(tmp_path):
    for shard, level in (("s0", 3), ("s1", 4)):
        tar(tmp_path / f"{shard}.tar", a_png=png(level), a_cls=b"%d" % level)
    source = open_source(str(tmp_path))
    assert labelled(source) == {"s0/a.png": "3", "s1/a.png": "4"}
    for shard in ("s0", "s1"):
        tar(tmp_path / f"{shard}.tar", a_png=png(1))
    refuse(tmp_path, "a .cls or .json", "got a.png in two tars")
    assert labelled(open_source(str(tmp_path), labels="none")) == {"s0/a.png": "", "s1/a.png": ""}


def test_tars_of_loose_images_are_classes(tmp_path):
    for name in ("n01440764", "n02102040"):
        tar(tmp_path / f"{name}.tar", **{f"{name}-1_png": png(1), f"{name}-2_png": png(2)})
    source = open_source(str(tmp_path))
    assert source.class_names == ("n01440764", "n02102040")
    assert len(source) == 4


def test_splits_of_shards(tmp_path):
    for part, level in (("train", 1), ("val", 2)):
        tar(tmp_path / f"set-{part}-000.tar", **{f"{part}1_png": png(level), f"{part}1_cls": b"x"})
    assert levels(open_source(str(tmp_path))) == [1]
    assert levels(open_source(str(tmp_path), "validation")) == [2]
    refuse(tmp_path, "'test' split", split="test")
    one = tmp_path / "val-0.tar"
    (tmp_path / "set-val-000.tar").rename(one)
    refuse(one, "'test' split", split="test")
    assert levels(open_source(str(one), "val")) == [2]


def test_labels_of_json_and_several_images_of_one_name(tmp_path):
    note = json.dumps({"species": "cat", "caption": "a cat", "width": 9, "nested": {}}).encode()
    other = json.dumps({"species": "dog", "caption": "a dog", "width": 7}).encode()
    files = {"a_png": png(1), "a_mask_png": png(9), "a_json": note}
    files |= {"b_png": png(2), "b_mask_png": png(8), "b_json": other}
    path = tar(tmp_path / "x.tar", **files)
    refuse(path, "one image for each name", "endings png, mask.png", "--data.image-column png")
    source = open_source(str(path), image_column="png")
    assert labelled(source) == {"a.png": "cat", "b.png": "dog"}
    assert levels(open_source(str(path), image_column="mask.png")) == [9, 8]
    captions = open_source(str(path), image_column="png", label_column="caption")
    assert captions.class_names == ("a cat", "a dog")
    refuse(path, "unknown column 'colour'", image_column="png", label_column="colour")
    with pytest.raises(InputError, match=r"an ending of the images .* choose from mask.png, png"):
        open_source(str(path), image_column="jpg")


def test_a_set_must_be_whole(tmp_path):
    write_shards(tmp_path, labels=["a"] * 8)
    (tmp_path / "x-002.tar").unlink()
    refuse(tmp_path, "expected 4 tars", "none called x-002.tar;")
    refuse(tmp_path / "x-{000..003}.tar", "none called x-002.tar")
    refuse(tmp_path / "x-{000..999999}.tar", "expected 1 to 100,000 tars")
    assert len(open_source(str(tmp_path / "x-{000..001}.tar"))) == 4
    tar(tmp_path / "x-002.tar", z_png=png(1), z_cls=b"a")
    tar(tmp_path / "y-000.tar", y_png=png(1))
    refuse(tmp_path, "tars of one set", "x-000.tar, y-000.tar")


def test_a_set_that_says_its_number(tmp_path):
    for number in (0, 2):
        tar(tmp_path / f"train-{number:05}-of-00004.tar", **{f"{number}_png": png(1)})
    refuse(tmp_path, "train-00001-of-00004.tar, train-00003-of-00004.tar (2 are missing)")


def test_compressed_and_damaged_tars(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w:gz") as archive:
        archive.add(__file__, "a.png")
    refuse(tmp_path / "x.tar", "expected a tar without compression")
    path = tar(tmp_path / "y.tar", a_png=png(1), b_png=png(2))
    path.write_bytes(path.read_bytes()[:1600])
    refuse(path, "expected a tar without compression", "b.png is cut off")
