"""Which files belong to a split, and which folders only look like one."""

import pytest

from convflow.data.splits import choose_part, choose_tables, require_unsplit, split_in, split_of
from convflow.types import InputError


def part(*files, split="train", labels="auto"):
    found = choose_part(sorted(files), "here", split, labels)
    return {f: "/".join(names) for f, names in zip(found.files, found.folders, strict=True)}


@pytest.mark.parametrize(
    ("files", "train", "test"),
    [
        (["Train/a/0", "TEST/a/1"], {"Train/a/0": "a"}, {"TEST/a/1": "a"}),
        (["training/0", "testing/1", "dev/2"], {"training/0": ""}, {"testing/1": ""}),
        (["x/y/train/a/0", "x/y/test/a/1"], {"x/y/train/a/0": "a"}, {"x/y/test/a/1": "a"}),
        (["a/train/0", "a/test/1", "b/train/2"], {"a/train/0": "a", "b/train/2": "b"},
         {"a/test/1": "a"}),
        (["x/train/0", "x/test/1"], {"x/train/0": ""}, {"x/test/1": ""}),
        (["x/a/train/0", "x/b/test/1"], {"x/a/train/0": "a"}, {"x/b/test/1": "b"}),
        (["train/train/0", "test/test/1"], {"train/train/0": ""}, {"test/test/1": ""}),
        (["train/train/0", "train/car/2", "test/car/1"],
         {"train/train/0": "train", "train/car/2": "car"}, {"test/car/1": "car"}),
        (["seg_train/a/0", "seg_test/a/1"], {"seg_train/a/0": "a"}, {"seg_test/a/1": "a"}),
        (["trainval/a/0", "test/a/1"], {"trainval/a/0": "a"}, {"test/a/1": "a"}),
        (["training_set/a/0", "test_set/a/1"], None, {"test_set/a/1": "a"}),
        (["1. train/0", "2. test/1"], {"1. train/0": ""}, {"2. test/1": ""}),
        (["TrainImages/0", "TestImages/1"], {"TrainImages/0": ""}, {"TestImages/1": ""}),
        (["traindata/0", "testdata/1"], {"traindata/0": ""}, {"testdata/1": ""}),
        (["train_imgs/0", "test_imgs/1"], {"train_imgs/0": ""}, {"test_imgs/1": ""}),
        (["TRN/0", "TST/1"], {"TRN/0": ""}, {"TST/1": ""}),
        (["train1/0", "holdout/1"], {"train1/0": ""}, {"holdout/1": ""}),
        (["training/0", "validation/1", "evaluation/2"], {"training/0": ""}, {"evaluation/2": ""}),
        (["train2017/0", "test2017/1"], {"train2017/0": ""}, {"test2017/1": ""}),
        (["train/images/a/0", "test/images/a/1"], {"train/images/a/0": "a"},
         {"test/images/a/1": "a"}),
    ],
)  # fmt: skip
def test_splits_are_found(files, train, test):
    assert part(*files, split="test") == test
    assert part(*files) == (train or {"training_set/a/0": "a"})
    assert len(part(*files, split="all")) == len(files)


def test_the_unlabeled_part_is_taken_when_asked_for():
    files = ["train/a/0", "test/a/1", "unlabeled/2"]
    assert part(*files, split="unlabelled") == {"unlabeled/2": ""}
    found = choose_part(files, "here", "all")
    assert found.files == files[:2]
    assert found.notes == ("split all of train, test, unlabeled without unlabeled",)
    assert choose_part(files, "here", "train").notes == ("split train of train, test, unlabeled",)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            ["train/0", "extra/1"],
            r"got train \(called like splits\) beside extra; give one folder",
        ),
        (["test/0", "val/0", "extra/1"], r"got val, test \(called like splits\) beside extra;"),
        (["train/a/0", "test/a/1", "loose"], "got train, test .* beside loose images; give one"),
        (["a/train/0", "a/test/0", "b/1"], r"got train, test \(called like splits\) of a; give"),
        (["g/a/train/0", "g/a/test/0", "h/b/1"], r"splits\) of g/a; .* such as g/a/train, or take"),
        (["train2017/0", "val2017/1", "x/2"], "got train2017, val2017 .* beside x;"),
        (
            ["trainA/0", "trainB/1", "testA/2", "testB/3"],
            "got trainA, testA .* beside testB, trainB",
        ),
        (["train/train/0", "train/val/1", "test/2"], "got train, val "),
        (["a/0", "b/1", "unlabeled/2"], r"got unlabeled \(called like splits\) beside a, b;"),
    ],
)
def test_folders_that_are_splits_in_part_are_refused(files, words):
    for split in ("train", "all"):
        with pytest.raises(InputError, match=words):
            part(*files, split=split)
    assert len(part(*files, split="all", labels="none")) == len(files)


def test_folders_that_are_splits_in_part_are_classes_where_one_says_so():
    files = ["train/0", "extra/1", "test/2"]
    assert part(*files, labels="folders") == {f: f.partition("/")[0] for f in files}
    found = choose_part(files, "here", "train", "folders")
    assert found.notes == ("the folders test, train are taken for classes, not for splits",)
    assert part("train/a/0", "test/a/1", labels="folders") == {"train/a/0": "a"}


@pytest.mark.parametrize(
    "files",
    [
        ["a/0", "b/1"],
        ["a/deep/er/0", "a/1", "b/2"],
        ["train_station/0", "airport/1"],
        ["test_tube/0", "test_bench/1"],
        ["test_1/0", "test_2/1"],
        ["train/a/0", "train/b/0"],
        ["0", "1"],
    ],
)
def test_class_folders_stay_class_folders(files):
    found = choose_part(files, "here", "train")
    assert found.files == files
    said = ("split train of train", "the folder ", "the folders ")
    assert all(note.startswith(said) for note in found.notes)


def test_a_lone_folder_among_classes_is_a_class():
    found = choose_part(["ape/0", "test/1"], "here", "train")
    assert found.folders == [("ape",), ("test",)]
    assert found.notes == ("the folder test is taken for a class, not for a split",)
    found = choose_part(["ape/0", "my_training/1", "train 2/2"], "here", "train")
    said = ("the folders my_training, train 2 are taken for classes, not for splits",)
    assert found.notes == said


def test_folders_around_everything():
    assert part("x/y/a/0", "x/y/b/1") == {"x/y/a/0": "a", "x/y/b/1": "b"}
    assert part("x/a/0") == {"x/a/0": "a"}
    assert part("x/a/0", "x/1") == {"x/a/0": "x/a", "x/1": "x"}


def test_no_such_split():
    with pytest.raises(InputError, match="'train' split in here, got validation, test; choose one"):
        part("val/0", "test/1")
    with pytest.raises(InputError, match="not split"):
        part("a/0", split="test")


def test_words_in_names():
    assert split_of("data/train-00000-of-00002.parquet") == "train"
    assert split_of("default/validation/0000.parquet") == "validation"
    assert split_of("data/pictures.parquet") is split_of("trainee.parquet") is None
    names = ["My Training", "val2", "testset", "UNLABELLED", "retest", "devil"]
    wanted = ["train", "validation", "test", "unlabeled", None, None]
    assert [split_in(name) for name in names] == wanted


def test_tables():
    names = ["test.parquet", "train-0.parquet", "train-1.parquet"]
    assert choose_tables(names, "x", "train") == (names[1:], ("split train of train, test",))
    assert choose_tables(names, "x", "test")[0] == names[:1]
    assert choose_tables(names, "x", "all")[0] == names
    assert choose_tables(["a", "b"], "x", "train") == (["a", "b"], ())
    assert choose_tables(["my-train", "my-test"], "x", "test")[0] == ["my-test"]
    assert choose_tables(["my-test"], "x", "train")[0] == ["my-test"]
    with pytest.raises(InputError, match="'val' split in x, got train, test"):
        choose_tables(names, "x", "val")
    with pytest.raises(
        InputError, match=r"got test.parquet, .* beside other; give one of the files"
    ):
        choose_tables([*names, "other"], "x", "train")
    require_unsplit("test", "x", "test")
    require_unsplit("all", "x")


def test_pictures_without_classes_are_spoken_of_without_options_of_training():
    assert choose_part(["ape/0", "test/1"], "here", "train", "none").notes == ()
    with pytest.raises(InputError, match=r"give one folder, such as train, or ask for the split"):
        choose_part(["train/0", "x/1"], "here", "train", "none")
