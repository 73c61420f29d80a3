"""Every block of the README and of the docs runs, on a tiny model and a tiny folder of images.

`tests/extending/test_page.py` runs the commands of docs/extending.md, which are tiny as printed.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import convflow
from convflow.cli.demo_web import create_parser
from convflow.cli.main import main
from convflow.models.zoo import SIZES
from convflow.shipped import SHIPPED
from tests.autoencoder import save_autoencoder
from tests.cli.conftest import TINY
from tests.stand_in import put_stand_in

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "convflow").rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODEC = ["--codec.autoencoder", "autoencoder", "--model.patch-size", "2"]
TINY_DIT = ["--model.num-heads" if word == "--model.num-groups" else word for word in TINY]
TINY = [*TINY, "--model.patch-size", "8", "--monitor.log-every", "1"]
SMALL = {
    "fcdm-s": {"width": 8, "depths": (1, 1, 1, 1, 1)},
    "dit-s/2": {"width": 16, "depth": 1, "num_heads": 2, "patch_size": 2},
}
TINY_SCORE = ["--monitor.score.detector", "detector:load", "--monitor.score.num", "8"]
SLOW = ("export_onnx", "convflow bench training")
"""In blocks of over ten seconds, with siblings in models/test_export.py and cli/test_speed.py."""
SLOW_LINES = ("convflow bench models", "convflow doctor", "convflow export runs/pets --to")
"""Commands that the quick tests leave out of their blocks; their siblings are in tests/cli."""
TINY_DETECTOR = ROOT / "tests/extending/detector.py"


def blocks(language: str) -> list:
    """Return a parameter (text) for every fenced block of a language, named by page and line."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.M | re.S):
            line = text[: match.start()].count("\n") + 1
            name = f"{page.relative_to(ROOT)}:{line}"
            marks = [pytest.mark.slow] if any(words in match[1] for words in SLOW) else []
            lines = match[1].splitlines(keepends=True)
            slow = "".join(line for line in lines if line.startswith(SLOW_LINES))
            quick = "".join(line for line in lines if not line.startswith(SLOW_LINES))
            if quick.strip():
                found.append(pytest.param(quick, id=name, marks=marks))
            if slow:
                found.append(pytest.param(slow, id=f"{name}-slow", marks=[pytest.mark.slow]))
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the blocks speak of."""
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    for folder in ("path/to/folder", "pets"):
        for name in ("cat", "dog"):
            (home / folder / name).mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
                Image.fromarray(pixels).save(home / folder / name / f"{i}.png")
    Image.new("RGB", (64, 64), "orange").save(home / "cat.png")
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(home / "mask.png")
    shutil.copy(TINY_DETECTOR, home / "detector.py")
    save_autoencoder(home / "autoencoder")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for run in ("runs/pets", "runs/pictures.flowdcn"):
            command = ["train", "pictures.flowdcn", "--data", "pets", "--run", run]
            assert main([*command, *TINY]) == 0
    return home


@pytest.mark.parametrize("text", [b for b in blocks("sh") if "extending.md" not in b.id])
def test_shell_block_runs(
    text: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    for name in SHIPPED:
        put_stand_in(home / "models", monkeypatch, name)
    for name in ("fcdm-s", "dit-s/2"):  # of convflow bench
        monkeypatch.setitem(SIZES, name, SIZES[name]._replace(settings=SMALL[name]))
    commands = [shlex.split(line, comments=True) for line in text.splitlines() if line.strip()]
    assert commands
    for number, (program, *words) in enumerate(commands):
        if program == "make":
            subprocess.run(["make", "-n", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        elif program == "convflow":
            if words[0] == "train" and "--help" not in words:
                if "--run" in words:
                    del words[words.index("--run") : words.index("--run") + 2]
                latent = words[1].startswith("imagenet.") or "latent" in words
                if words[1] == "--resume":
                    assert main(words) == 0, words
                    continue
                words += ["--run", str(tmp_path / str(number))]
                words += TINY_DIT if words[1].startswith("imagenet.dit") else TINY
                words += CODEC if latent else []
                words += ["--sampling.steps", "2"] if "dfm" in words else []  # one for each scale
                words += TINY_SCORE if "--monitor.score" in words else []
            if words[0] == "encode":
                words += CODEC[:2]
            if words[:2] == ["demo", "digits"]:
                continue  # tests/cli/test_demo_digits.py
            if words[0] == "evaluate" and "--compare" not in words:
                words += ["--detector", "detector.py:load", "--num", "8"]
            if words[0] == "nearest":  # blocks share a folder
                words += ["--overwrite"]
            if words[0] == "plan":
                words += ["--model.depths", "1,1,1,1,1"]
            if words[0] == "bench" and words[1] != "solvers":
                words[2:2] = ["fcdm-s"] if words[1:] == ["models"] else []
                words += ["--rounds", "1", "--batch-size", "1"]
                small = ["--size", "8x8" if words[1] == "ops" else "32x32"]
                words += ["--steps", "1"] if words[1] == "samplers" else small
            if words[0] == "compare" and not find_spec("matplotlib"):
                continue
            if words[:2] == ["demo", "web"]:  # serves until Ctrl-C; demo/test_web.py
                assert create_parser().parse(words[2:]).model == "runs/pets"
                continue
            assert main(words) == 0, words
        else:
            assert Path(program).name in {"pip", "pre-commit", "python", "torchrun"}, program


@pytest.mark.parametrize("text", blocks("python"))
def test_python_block_runs(text: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    exec(compile(text, "block", "exec"), {"__name__": "block"})


def test_the_tree_names_every_folder_and_no_lost_file() -> None:
    tree = re.search(r"^convflow/\n(.*?)^tests/", (ROOT / "README.md").read_text(), re.M | re.S)
    assert tree
    place, named = Path(), set()
    for indent, word in re.findall(r"^( +)([\w./]+) ", tree[1], re.M):
        place = Path(*place.parts[: len(indent) // 2 - 1], word)
        assert (ROOT / "convflow" / place).exists(), place
        named.add(place)
    assert named >= {p.parent.relative_to(ROOT / "convflow") for p in FILES} - {Path()}


def test_the_readme_says_truly_where_things_are() -> None:
    text = (ROOT / "README.md").read_text()
    for link in re.findall(r"\]\(([^):]+)\)", text):
        assert (ROOT / link.partition("#")[0]).exists(), link
    for file, name in re.findall(r"\]\((convflow/\S+\.py)\): `(\w+)`", text):
        assert re.search(rf"^ *(def |class )?{name}\b", (ROOT / file).read_text(), re.M), (
            f"{file} has no {name}"
        )


def test_the_chinese_page_has_commands_of_the_readme() -> None:
    def commands(page: str) -> set[str]:
        shell = "".join(re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S))
        return {" ".join(shlex.split(line, comments=True)) for line in shell.splitlines()}

    assert commands("README.zh.md") <= commands("README.md")


def test_the_changelog_tells_of_this_version() -> None:
    headings = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert next(name for name in headings if name != "Unreleased") == convflow.__version__
