"""`convflow sample`: pictures, their names and their labels."""

import shutil

import numpy as np
import pytest
from PIL import Image

from convflow.cli import sample
from convflow.cli.main import main
from convflow.types import InputError

QUICK = ["--steps", "1"]


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_a_grid(tiny_run, tmp_path, capsys):
    out = tmp_path / "new" / "grid.png"
    assert main(["sample", str(tiny_run), "--out", str(out), "--num", "6", *QUICK]) == 0
    assert pixels(out).shape == (2 * 66 + 2, 3 * 66 + 2)
    assert [p.name for p in out.parent.iterdir()] == ["grid.png"]
    said = capsys.readouterr().out
    assert f"6 pictures of 8x8 in {out}" in said
    assert "rows from the top left: 0, 1, 2, 3, 4, 5" in said


def test_one_file_per_picture_with_its_label(tiny_run, tmp_path):
    out = tmp_path / "out"
    words = ["--labels", "7,3", "--num", "3", "--seed", "5", "--size", "10x6"]
    assert main(["sample", str(tiny_run), "--out", str(out), *words, *QUICK]) == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == ["00000_7_seed5.png", "00001_3_seed5.png", "00002_7_seed5.png"]
    assert pixels(out / names[0]).shape == (10, 6)


def test_a_picture_depends_on_seed_and_number_alone(tiny_run, tmp_path):
    def draw(name, *words):
        out = tmp_path / name
        given = ["sample", str(tiny_run), "--single", "--out", str(out), "--labels", "4", *words]
        assert main([*given, *QUICK]) == 0
        return [pixels(path) for path in sorted(out.iterdir())]

    many = draw("many", "--num", "5", "--batch-size", "2")
    few = draw("few", "--num", "3", "--batch-size", "3")
    other = draw("other", "--num", "3", "--seed", "1")
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(many, few, strict=False))
    assert not np.array_equal(few[0], other[0])


def test_a_checkpoint_and_its_raw_weights(tiny_run, tmp_path):
    folder = max((tiny_run / "checkpoints").iterdir())
    out = tmp_path / "a.png"
    words = ["--out", str(out), "--num", "1", "--weights", "raw", *QUICK]
    assert main(["sample", str(folder), *words]) == 0
    assert out.exists()


def test_an_older_picture_is_replaced(tiny_run, tmp_path):
    out = tmp_path / "a.png"
    out.write_text("old")
    assert main(["sample", str(tiny_run), "--out", str(out), "--num", "1", *QUICK]) == 0
    assert pixels(out).ndim == 2


def test_a_class_with_a_comma_is_one_label(tiny_run, tmp_path):
    assert sample.split_labels("a,b", ("a", "b")) == ["a", "b"]
    assert sample.split_labels("salt, pepper", ("salt, pepper", "sugar")) == ["salt, pepper"]
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    for path in run.rglob("pipeline.json"):
        path.write_text(path.read_text().replace('"0"', '"salt, pepper"'))
    words = ["--labels", "salt, pepper", "--num", "1", "--single", "--out", str(tmp_path / "out")]
    assert main(["sample", str(run), *words, *QUICK]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["00000_salt-pepper_seed0.png"]


@pytest.mark.parametrize(("text", "size"), [("48x32", (48, 32)), ("64", (64, 64))])
def test_sizes(text, size):
    assert sample.size(text) == size


def test_files_go_to_a_folder_of_their_own_name(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (["--single"], []):
        assert main(["sample", str(tiny_run), "--num", "2", "--steps", "1", *words]) == 0
    assert len(list((tmp_path / "samples").glob("*.png"))) == 2
    assert (tmp_path / "samples.png").is_file()


def test_a_stored_setting_can_be_taken_back():
    from convflow.cli.main import Parser
    from convflow.cli.sample import add_sampling_options, sampling_options

    parser = Parser()
    add_sampling_options(parser)
    parser.add_argument("--size")
    parser.add_argument("--seed", type=int)
    given = "--last-step none --channels-guided all --no-clip".split()
    wanted = {"last_step": None, "channels_guided": "all", "clip": False}
    assert sampling_options(parser.parse(given)) == wanted
    given = "--last-step 0.04 --channels-guided 3 --clip".split()
    wanted = {"last_step": 0.04, "channels_guided": 3, "clip": True}
    assert sampling_options(parser.parse(given)) == wanted


def test_several_sizes_at_once_and_the_nearest_that_work(tiny_run, tmp_path, capsys, caplog):
    out = tmp_path / "grid.png"
    words = ["--size", "10x6,9x12,10x7", "--num", "2", "--zoom", "1", "--columns", "2", *QUICK]
    with caplog.at_level("INFO"):
        assert main(["sample", str(tiny_run), "--out", str(out), *words]) == 0
    names = sorted(path.name for path in tmp_path.glob("*.png"))
    assert names == ["grid_10x6.png", "grid_10x8.png", "grid_8x12.png"]
    assert pixels(tmp_path / "grid_8x12.png").shape == (8 + 4, 2 * 12 + 6)
    assert "9x12 becomes 8x12: the model takes multiples of 2" in caplog.text
    assert "10x6 becomes" not in caplog.text
    folder = tmp_path / "single"
    assert main(["sample", str(tiny_run), "--single", "--out", str(folder), *words]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["10x6", "10x8", "8x12"]
    assert len(list((folder / "10x6").iterdir())) == 2
    assert "2 pictures of 8x12 in" in capsys.readouterr().out


def test_the_nearest_size():
    assert sample.fit_sizes([(1, 1), (3, 5), (2, 6)], 4) == [(4, 4), (4, 8)]
    with pytest.raises(
        InputError, match="at least 1 pixel, got 8x0; the smallest that works is 4x4"
    ):
        sample.fit_sizes([(8, 0)], 4)


def options_of(words):
    from convflow.cli.main import Parser

    parser = Parser()
    sample.add_sampling_options(parser)
    return sample.sampling_options(parser.parse(words.split()))


def test_a_reach_is_a_number_two_or_a_schedule():
    from convflow.samplers.reach import ReachSchedule

    assert options_of("--reach 4") == {"reach": 4.0}
    assert options_of("--reach 4,6.5") == {"reach": (4.0, 6.5)}
    assert options_of("--reach auto") == {"reach": ReachSchedule()}
    words = "--reach-times 0.1,0.5 --reach-blocks 1,2 --reach-form constant --reach-peak 3"
    schedule = ReachSchedule(3.0, (0.1, 0.5), (1, 2), "constant")
    assert options_of(f"--reach auto {words}") == {"reach": schedule}
    for reach, told in (("", "none"), ("--reach 4", "4.0")):
        with pytest.raises(InputError, match=f"--reach-peak: expected --reach auto .*got {told};"):
            options_of(f"{reach} --reach-peak 3")


def test_a_shift_is_a_number_or_follows_the_size():
    assert options_of("--shift 3 --position-scaling ntk") == {
        "shift": 3.0,
        "position_scaling": "ntk",
    }
    assert options_of("--shift auto") == {"shift": "auto"}


def test_what_grows_with_the_size_comes_to_the_network(tiny_run, tmp_path, monkeypatch):
    from convflow.models.flowdcn import FlowDCN

    seen, trunk = [], FlowDCN.trunk

    def spy(self, features, c, reach=None):
        seen.append((self.reach, reach[0, 0].tolist()))
        return trunk(self, features, c, reach)

    monkeypatch.setattr(FlowDCN, "trunk", spy)
    words = "--num 1 --size 8x12 --steps 1 --reach auto --reach-blocks 0,0 --shift auto"
    assert main(["sample", str(tiny_run), "--out", str(tmp_path / "a.png"), *words.split()]) == 0
    trained, reach = seen[0]
    assert reach == [1.5 * trained, trained]
