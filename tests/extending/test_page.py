"""The page that shows the files of this folder: it has them byte for byte, and its commands run."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from convflow.cli.main import main

HERE = Path(__file__).parent
FILES = [path for path in HERE.glob("*.py") if not path.name.startswith(("test_", "__"))]
PAGE = (HERE.parents[1] / "docs/extending.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)


def test_the_page_shows_every_file():
    shown = re.findall(r'^```python title="(.*?)"\n(.*?)^```', PAGE, re.M | re.S)
    assert dict(shown) == {path.name: path.read_text() for path in FILES}


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_commands_run_as_printed(block, tmp_path, monkeypatch):
    for path in FILES:
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    for command in block.splitlines():
        program, *words = shlex.split(command)
        assert program == "convflow"
        try:
            assert main(words) == 0
        finally:
            for path in FILES:
                sys.modules.pop(path.stem, None)


def test_every_part_has_a_command():
    assert {path.stem for path in FILES} == set(re.findall(r"(\w+):[A-Za-z]", " ".join(BLOCKS)))
