"""Tables of the docs are those of the results, also of two seeds and without results."""

import re

import pytest

from benchmarks import tables
from benchmarks.tables import DOCS, TABLES, fill, table_of

PAGES = sorted(DOCS.rglob("*.md"))
MACHINE = {"cpu": "EPYC", "threads": "1", "torch": "2.13", "revision": "abc"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_the_tables_of_the_results(page):
    text = page.read_text(encoding="utf-8")
    assert fill(text) == text, "run python benchmarks/tables.py"
    assert text.count("<!-- table ") == len(tables.PLACE.findall(text))


def test_every_table_has_a_place():
    texts = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert sorted(re.findall(r"^<!-- table (\w+) -->$", texts, re.M)) == sorted(TABLES)


def test_seeds_share_a_row_and_the_longest_training_counts():
    found = [
        {"contender": name, "seed": seed, "images": images, "FD": value} | MACHINE
        for name, seed, images, value in (
            ("plain", "0", "1024", "9"), ("plain", "0", "20480", "5.1"),
            ("plain", "1", "20480", "5.3"), ("real", "", "", "0.1"),
        )
    ]  # fmt: skip
    table = TABLES["objectives"]._replace(cells={"images seen": "images", "FD": "FD", "KD": "KD"})
    head, _, plain, real, _, note = table_of(table, found, "x.csv")
    assert head == "| network and loss | images seen | FD | KD |"
    assert (plain, real) == ("| plain | 20,480 | 5.1, 5.3 | - |", "| real | - | 0.1 | - |")
    assert note.endswith("`benchmarks/results/x.csv`; EPYC, 1 thread, torch 2.13, revision abc.*")


def test_what_was_not_measured_says_so(tmp_path):
    page = "a\n<!-- table few_steps -->\nold\n<!-- end of table -->\nb\n"
    found = fill(page, tmp_path)
    assert found == page.replace("old\n", "\n*Not measured yet.*\n\n")
    assert fill(found, tmp_path) == found
