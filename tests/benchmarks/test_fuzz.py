"""Damaged files of every format end in one line; the whole of it runs for an hour by hand."""

import random
import shutil

import pytest

from benchmarks.reliability.fuzz import Format, damage, formats, fuzz, try_case


@pytest.mark.parametrize("name", formats())
def test_a_damaged_file_is_read_or_refused(name, tmp_path, unchecked):
    form = formats()[name]
    (tmp_path / "whole").mkdir()
    form.make(tmp_path / "whole")
    form.read(shutil.copytree(tmp_path / "whole", tmp_path / "first"))
    for case in range(2):
        folder = shutil.copytree(tmp_path / "whole", tmp_path / str(case))
        kind, reason = try_case(form, folder, random.Random(f"{name}:0:{case}"))
        assert kind in ("ok", "refused"), reason


def test_a_case_is_the_same_again():
    content = b'{"a": [1, {"b": 2}]}' * 3
    first = [damage(content, random.Random(case)) for case in range(50)]
    assert first == [damage(content, random.Random(case)) for case in range(50)]
    assert len(set(first)) > 25


def test_another_error_is_a_finding(tmp_path):
    (tmp_path / "a").write_bytes(b"content")

    def read(folder):
        raise KeyError("odd")

    kind, reason = try_case(Format(print, read, "a"), tmp_path, random.Random(0))
    assert (kind, reason[:8]) == ("finding", "KeyError")


@pytest.mark.slow
def test_a_worker_counts():
    (count,) = fuzz(["metrics"], 0, 600.0, 5, print)
    assert (count.cases, count.ok, count.findings) == (5, 5, 0)
