"""`convflow sample`: images, their names and their labels."""

import shutil

import numpy as np
import pytest
from PIL import Image

from convflow.cli.main import main
from convflow.codecs import PixelCodec
from convflow.pipeline import Pipeline
from tests.cases import build

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
    assert f"6 images of 8x8 in {out}" in said
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
    model = shutil.copytree(next(tiny_run.glob("checkpoints/*/ema")), tmp_path / "model")
    path = model / "pipeline.json"
    path.write_text(path.read_text().replace('"0"', '"salt, pepper"'))
    words = ["--labels", "salt, pepper", "--num", "1", "--single", "--out", str(tmp_path / "out")]
    assert main(["sample", str(model), *words, *QUICK]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["00000_salt-pepper_seed0.png"]


def test_files_go_to_a_folder_of_their_own_name(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (["--single"], []):
        assert main(["sample", str(tiny_run), "--num", "2", "--steps", "1", *words]) == 0
    assert len(list((tmp_path / "samples").glob("*.png"))) == 2
    assert (tmp_path / "samples.png").is_file()


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
    assert "2 images of 8x12 in" in capsys.readouterr().out


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--out a.gif --rate 60", "expected 0.1 to 50 frames a second for a.gif, got 60"),
        ("--out clips --rate 60", "expected 0.1 to 50 frames a second for sample.gif, got 60"),
        ("--out a.png --rate 8", "--rate: expected a file of videos such as samples.gif with it"),
        ("--out a.avi", "--out: expected .gif or .mp4 or"),
        ("--size 8x8", "expected a size of frames, height and width such as 4x8x8, got 8x8"),
    ],
)
def test_videos_that_cannot_be_written_are_refused_before_they_are_made(
    words, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Pipeline(build("flowdcn-video"), PixelCodec(), (4, 8, 8), device="cpu").save_pretrained("clips")
    monkeypatch.setattr(Pipeline, "__call__", lambda *_, **__: pytest.fail("made"))
    words = words.replace("--out clips", "--out others")
    assert main(["sample", "clips", *words.split(), *QUICK]) == 2
    assert message in capsys.readouterr().err.replace("a .gif", ".gif")
    assert [path.name for path in tmp_path.iterdir()] == ["clips"]


def test_videos_in_every_form(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Pipeline(build("flowdcn-video"), PixelCodec(), (4, 8, 8), device="cpu").save_pretrained("clips")
    words = ["sample", "clips", "--num", "2", "--label", "1", *QUICK]
    for place in ("a.gif", "a.webp", "a.png", "several"):
        assert main([*words, "--out", place, *([] if place == "a.png" else ["--rate", "5"])]) == 0
    with Image.open("a.webp") as grid:
        grid.load()
        assert (grid.n_frames, grid.info["duration"]) == (4, 200)
    assert sorted(path.suffix for path in (tmp_path / "several").iterdir()) == [".gif", ".gif"]
