"""The examples in docstrings run and print what they say."""

from __future__ import annotations

import doctest
import importlib
import re

import pytest

from tests.test_house import FILES, ROOT, name

WITH_EXAMPLES = [path for path in FILES if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=name)
def test_the_examples_of_a_module_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write a file
    place = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    module = importlib.import_module(place.removesuffix(".__init__"))
    assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


@pytest.mark.parametrize("path", FILES, ids=name)
def test_examples_stand_where_the_site_shows_them_as_code(path):
    """Under `Examples:`; mkdocstrings shows the code under `Example:` as nested quotes."""
    assert not re.search(r"^ *Example:$", path.read_text(encoding="utf-8"), re.M)


def test_most_examples_are_found():
    assert len(WITH_EXAMPLES) > 20
